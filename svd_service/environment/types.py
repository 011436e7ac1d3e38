"""Types of settings: their bounds, their notation, and whether they are secret."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from msgspec import Meta

from svd_service.environment import checks

#: The optimizations of `svd_service.video.optimizations`, by name.
OPTIMIZATIONS: Final = (
    "zero_branches",
    "constant_cross_attention",
    "fused_qkv",
    "lerp",
    "channels_last",
    "bfloat16_decoder",
    "cached_guidance",
    "device_resize",
    "device_uint8",
    "overlapped_encoding",
    "compile",
    "cuda_graphs",
    "flash_attention",
    "cudnn_attention",
)
_OPTIMIZATION: Final = f"(auto|none|-?({'|'.join(OPTIMIZATIONS)}))"
_PROFILE: Final = "(exact|draft)"

# Besides numbers, CUDA_VISIBLE_DEVICES has the names of `nvidia-smi -L`, whose UUIDs may be cut short; drivers before
# R470 name a MIG slice by its GPU and the numbers of its instances.
_UUID: Final = "[0-9A-Fa-f]+(-[0-9A-Fa-f]+){0,4}"
_DEVICE: Final = rf"(\d+|cpu|(GPU|MIG)-{_UUID}|MIG-GPU-{_UUID}/\d+/\d+)"


@dataclass(frozen=True, slots=True)
class Check:
    """A check beyond the type; `fault` returns what is wrong with a value, or `None`."""

    fault: Callable[[Any], str | None]


class SecretMark:
    """The mark of a setting that holds or may by mistake hold a password or a key.

    No message shows its value, and it can be a file in `SVD_SECRETS_DIR`.
    """


_T = TypeVar("_T")
Secret = Annotated[_T, SecretMark]

Seconds = Annotated[float, Meta(gt=0)]
Size = Annotated[int, Meta(ge=64, le=4096, multiple_of=8)]
# Beyond that, Pillow takes any image for a decompression bomb.
Pixels = Annotated[int, Meta(ge=4_096, le=89_478_485)]
Folder = Annotated[Path, Check(checks.folder)]

Port = Annotated[int, Meta(ge=1, le=65535)]
Address = Annotated[str, Check(checks.address)]
AddressOrSocket = Annotated[str, Check(functools.partial(checks.address, sockets=True))]
Host = Annotated[str, Check(checks.host)]
Addresses = Annotated[str, Meta(pattern=r"^([^\s,:@/]+:\d{1,5}( *, *[^\s,:@/]+:\d{1,5})*)?$"), Check(checks.ports)]
HTTPURL = Annotated[str, Meta(pattern=r"^https?://[^/?#\s]+/?$"), Check(checks.ports)]
ServiceURL = Annotated[str, Meta(pattern=r"^https?://[^/?#\s@]+(/[^\s#]*)?$"), Check(checks.ports)]
CommandLine = Annotated[str, Check(checks.command)]
RedisURL = Annotated[str, Meta(pattern="^(redis|rediss|unix)://"), Check(checks.redis_url)]
PathPrefix = Annotated[str, Meta(pattern=r"^(/[A-Za-z0-9._~-]+)*$")]
HostNames = Annotated[str, Meta(pattern=r"^( *(\*|\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*) *(,|$))*$")]
Origins = Annotated[str, Meta(pattern=r"^( *(\*|[a-z][a-z0-9+.-]*://[^/?#\s,]+) *(,|$))*$")]

Namespace = Annotated[str, Meta(pattern="^[a-z][a-z0-9_-]{0,31}$")]
Devices = Annotated[str, Meta(pattern=rf"^({_DEVICE}( *, *{_DEVICE})*)?$")]
Profiles = Annotated[str, Meta(pattern=rf"^({_PROFILE}( *, *{_PROFILE})*)?$")]
Optimizations = Annotated[str, Meta(pattern=rf"^ *{_OPTIMIZATION}( *, *{_OPTIMIZATION})* *$")]
ModelSource = Annotated[str, Check(checks.home)]
ModelNames = Annotated[str, Meta(pattern=r"^([^,]+(,[^,]+)*)?$")]

# Bucket and prefix consist of characters that need no encoding in a URL.
StorePlace = Annotated[
    str,
    Meta(pattern=r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_][A-Za-z0-9._-]*)*/?|/.*)?$"),
]
Region = Annotated[str, Meta(pattern="^[A-Za-z0-9-]+$")]

Credentials = Annotated[str, Meta(pattern="^[^:,]+:[^,]+$")]
HashedKeys = Annotated[str, Meta(pattern=r"^( *[^:,\s]+:[0-9a-f]{64}(:[0-2])? *(,|$))*$")]
WebhookSecrets = Annotated[
    str, Meta(pattern=r"^( *whsec_[A-Za-z0-9+/]+={0,2} *(,|$))*$"), Check(checks.webhook_secrets)
]
