"""Settings: the only reader of the environment and of `.env`. Imports nothing of ours but checks.

Every other module gets its values from a `Settings`; a process has its own from `settings()`, read once, and tests
build theirs from a mapping with `Settings.from_mapping`.
"""

import functools
import glob
import ipaddress
import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from dotenv import dotenv_values
from msgspec import Meta

from svd_service import setting_checks

#: The model of a machine with CUDA, and that of every other machine.
CUDA_MODEL: Final = "stabilityai/stable-video-diffusion-img2vid-xt"
CPU_MODEL: Final = str(Path(__file__).resolve().parent / "models" / "nano")

#: The optimizations of `svd_service.video.optimizations`, by name.
OPTIMIZATIONS: Final = (
    "constant_cross_attention",
    "fused_qkv",
    "lerp",
    "channels_last",
    "cached_guidance",
    "device_resize",
    "device_uint8",
    "overlapped_encoding",
    "compile",
)

#: Environment variables that do not follow the rule, which is `SVD_` and the field's name.
_VARIABLES: Final = {
    "redis_url": "REDIS_URL",
    "redis_host": "REDIS_HOST",
    "redis_port": "REDIS_PORT",
    "redis_ca_file": "REDIS_CA_FILE",
    "redis_cert_file": "REDIS_CERT_FILE",
    "redis_key_file": "REDIS_KEY_FILE",
    "redis_sentinels": "REDIS_SENTINELS",
    "redis_sentinel_auth": "REDIS_SENTINEL_AUTH",
    "video_width": "VIDEO_WIDTH",
    "video_height": "VIDEO_HEIGHT",
    "video_frames": "VIDEO_FRAMES",
    "multiprocess_dir": "PROMETHEUS_MULTIPROC_DIR",
}

#: Deprecated environment variables and the fields that have their values, for one release.
_DEPRECATED: Final = {"SVD_LEVERS": "optimizations"}

Port = Annotated[int, Meta(ge=1, le=65535)]
Size = Annotated[int, Meta(ge=64, le=4096, multiple_of=8)]
Seconds = Annotated[float, Meta(gt=0)]
RedisURL = Annotated[str, Meta(pattern="^(redis|rediss|unix)://")]
Keys = Annotated[str, Meta(pattern=r"^( *[^:,\s]+:[0-9a-f]{64}(:[0-2])? *(,|$))*$")]
# Bucket and prefix are such that they stand for themselves in any URL.
Place = Annotated[
    str,
    Meta(pattern=r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_][A-Za-z0-9._-]*)*/?|/.*)?$"),
]
HTTPURL = Annotated[str, Meta(pattern=r"^https?://[^/?#\s]+/?$")]
_OPTIMIZATION: Final = f"(auto|none|-?({'|'.join(OPTIMIZATIONS)}))"
Optimizations = Annotated[str, Meta(pattern=rf"^ *{_OPTIMIZATION}( *, *{_OPTIMIZATION})* *$")]
_PROFILE: Final = "(exact|draft)"
WebhookSecrets = Annotated[str, Meta(pattern=r"^( *whsec_[A-Za-z0-9+/]{32,86}={0,2} *(,|$))*$")]
Hosts = Annotated[str, Meta(pattern=r"^([^\s,:@/]+:\d{1,5}( *, *[^\s,:@/]+:\d{1,5})*)?$")]
Names = Annotated[str, Meta(pattern=r"^( *(\*|\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*) *(,|$))*$")]
Origins = Annotated[str, Meta(pattern=r"^( *(\*|[a-z][a-z0-9+.-]*://[^/?#\s,]+) *(,|$))*$")]
Credentials = Annotated[str, Meta(pattern="^[^:,]+:[^,]+$")]


#: Settings that hold or may by mistake hold a password or a key: no message shows their value, and each can be a file
#: in `SVD_SECRETS_DIR`.
_SECRET: Final = {
    "api_keys",
    "flower_basic_auth",
    "redis_sentinel_auth",
    "redis_url",
    "s3_secret_access_key",
    "webhook_secret",
}


class ConfigurationError(Exception):
    """A setting has an invalid value. The message names the environment variable."""


def variable(field: str) -> str:
    """The environment variable that sets `field`."""
    return _VARIABLES.get(field, f"SVD_{field.upper()}")


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename=variable):
    """All settings with their defaults. The descriptions are also those of docs/configuration.md."""

    # Redis
    redis_url: Annotated[
        RedisURL | None, Meta(description="URL of Redis; overrides `REDIS_HOST` and `REDIS_PORT`.")
    ] = None
    redis_host: Annotated[str | None, Meta(description="Host of Redis. Default: localhost.")] = None
    redis_port: Annotated[Port, Meta(description="Port of Redis.")] = 6379
    redis_ca_file: Annotated[
        Path | None,
        Meta(description="CA certificates for Redis' certificate, with `rediss://`. Default: the system's."),
    ] = None
    redis_cert_file: Annotated[Path | None, Meta(description="Client certificate for Redis (mutual TLS).")] = None
    redis_key_file: Annotated[Path | None, Meta(description="Private key of the client certificate.")] = None
    redis_sentinels: Annotated[
        Hosts,
        Meta(
            description="Redis Sentinels as `HOST:PORT`, separated by commas. The host in `REDIS_URL` is then "
            "the master's name (`rediss://user:password@mymaster/0`)."
        ),
    ] = ""
    redis_sentinel_auth: Annotated[Credentials | None, Meta(description="`user:password` for the Sentinels.")] = None
    namespace: Annotated[
        str,
        Meta(
            pattern="^[a-z][a-z0-9_-]{0,31}$",
            description="Prefix of all Redis keys and Celery queue names.",
        ),
    ] = "svd"

    # The model
    model: Annotated[
        str | None,
        Meta(
            description="Hub id or folder in diffusers' layout. Default: SVD-XT with a CUDA device, else the "
            "nano model of the package. A worker loads it; the API uses it for requests without a "
            "model."
        ),
    ] = None
    model_revision: Annotated[str | None, Meta(description="Branch, tag or commit of a hub model.")] = None
    devices: Annotated[
        str,
        Meta(
            pattern=r"^((\d+|cpu)( *, *(\d+|cpu))*)?$",
            description="Devices of this host's worker, one process each: `0,1`, or `cpu`. Default: every "
            "CUDA device (of `CUDA_VISIBLE_DEVICES`, if set), or one CPU process.",
        ),
    ] = ""
    profiles: Annotated[
        str,
        Meta(
            pattern=rf"^({_PROFILE}( *, *{_PROFILE})*)?$",
            description="Profiles that this host's worker accepts: `draft`, or `exact`. Default: all.",
        ),
    ] = ""
    cpu_threads: Annotated[
        int, Meta(ge=0, description="Threads of a CPU process; 0: the cores divided by the processes.")
    ] = 0
    optimizations: Annotated[
        Optimizations,
        Meta(
            description="Optimizations: `auto` (the device's defaults), `none`, and names to add or, with a "
            "`-`, to remove: `-fused_qkv`, `none,lerp`."
        ),
    ] = "auto"
    memory: Annotated[
        Literal["auto", "fast", "lean", "small", "least"],
        Meta(
            description="Memory plan of a CUDA device, from the fastest to the smallest; `auto`: the fastest "
            "that fits into the free memory."
        ),
    ] = "auto"
    video_width: Annotated[Size | None, Meta(description="Default width in pixels. Default: the model's.")] = None
    video_height: Annotated[Size | None, Meta(description="Default height in pixels. Default: the model's.")] = None
    video_frames: Annotated[
        Annotated[int, Meta(ge=2, le=100)] | None, Meta(description="Default number of frames. Default: the model's.")
    ] = None

    # Images and videos
    data_dir: Annotated[
        Path,
        Meta(
            description="Local folder for logs, temporary files and, unless `SVD_ARTIFACTS` is set, images and videos."
        ),
    ] = msgspec.field(default_factory=lambda: Path("data").resolve())
    artifacts: Annotated[
        Place,
        Meta(
            description="Artifact store: `s3://BUCKET/PREFIX` (extra `s3`), or the absolute path of a folder "
            "that all hosts share. Default: `SVD_DATA_DIR`."
        ),
    ] = ""
    s3_endpoint: Annotated[
        HTTPURL | None, Meta(description="URL of the S3-compatible store. Default: AWS in the region.")
    ] = None
    s3_region: Annotated[str, Meta(pattern="^[A-Za-z0-9-]+$", description="Region of the store.")] = "us-east-1"
    s3_access_key_id: Annotated[
        str | None,
        Meta(description="Access key of the store. Default: AWS' instance metadata or `AWS_…` variables."),
    ] = None
    s3_secret_access_key: Annotated[str | None, Meta(description="Secret of the access key.")] = None
    s3_path_style: Annotated[bool, Meta(description="Put the bucket into the URL's path instead of the host name.")] = (
        True
    )
    s3_redirect: Annotated[
        bool,
        Meta(description="Redirect downloads to a presigned store URL (307)."),
    ] = False
    s3_redirect_ttl: Annotated[
        Annotated[int, Meta(ge=1, le=604_800)], Meta(description="Validity of presigned URLs in seconds.")
    ] = 300
    s3_public_endpoint: Annotated[
        HTTPURL | None,
        Meta(description="URL of the store for clients, used in presigned URLs. Default: `SVD_S3_ENDPOINT`."),
    ] = None
    max_upload_bytes: Annotated[int, Meta(ge=1_000, description="Maximum size of an image in bytes.")] = 20_000_000
    max_pixels: Annotated[
        int,
        # Beyond that, Pillow takes any image for a decompression bomb.
        Meta(ge=4_096, le=89_478_485, description="Maximum size of an image in pixels."),
    ] = 50_000_000
    image_decoders: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="Processes of each API process that decode images. One needs up to 1 GB for the "
            "largest image; images above 16 megapixels are decoded one at a time in each API "
            "process.",
        ),
    ] = 2
    previews: Annotated[
        bool,
        Meta(description="Show a low-resolution preview about once a second during sampling."),
    ] = True
    result_ttl: Annotated[Seconds, Meta(description="Retention of results in seconds.")] = 86_400
    record_ttl: Annotated[
        Seconds,
        Meta(description="Retention of a job's record in seconds, after its result is deleted (410, then 404)."),
    ] = 604_800

    content_cache: Annotated[
        bool,
        Meta(description="Copy the video of an earlier identical job of the same key, for jobs with an explicit seed."),
    ] = False
    fetch_urls: Annotated[
        bool,
        Meta(description="Accept images by http(s) URL in OpenAI's dialect; downloaded from public addresses only."),
    ] = False

    # Jobs
    max_attempts: Annotated[
        int,
        Meta(
            ge=1, le=10, description="Maximum number of attempts, if attempts are lost or retried, before a job fails."
        ),
    ] = 3
    lease: Annotated[
        float,
        Meta(
            ge=1,
            description="Lease of a running job in seconds; when a lost worker does not renew it, the job is requeued.",
        ),
    ] = 10
    max_seconds: Annotated[
        float,
        Meta(gt=0, description="Maximum length of a video in seconds, including all segments and interpolated frames."),
    ] = 30
    max_output_pixels: Annotated[
        int,
        Meta(
            ge=4_096,
            le=16_777_216,
            description="Maximum area of a video in pixels, after scaling (`size`, `output_width`).",
        ),
    ] = 4_194_304
    job_timeout: Annotated[
        float, Meta(ge=1, description="Time limit of an attempt in seconds; then the job fails.")
    ] = 3_600
    drain_timeout: Annotated[
        float,
        Meta(
            ge=0,
            description="Seconds for a running job to finish at shutdown; then it is requeued at its next step.",
        ),
    ] = 25

    # Access and limits
    api_keys: Annotated[
        Keys,
        Meta(
            description="API keys as `NAME:SHA256` or `NAME:SHA256:PRIORITY`, separated by commas; in "
            "addition to those of `svd-service keys`."
        ),
    ] = ""
    rate_limit: Annotated[
        int,
        Meta(
            ge=0,
            description="Maximum number of requests per minute of a key, or of an address without keys; 0: no limit.",
        ),
    ] = 0
    max_queued: Annotated[int, Meta(ge=1, description="Maximum number of queued jobs (429 beyond).")] = 1_000
    max_queued_per_key: Annotated[int, Meta(ge=1, description="Maximum number of queued jobs of one key.")] = 500
    longest_wait: Annotated[
        Seconds, Meta(description="Age of a queued job in seconds at which Prometheus raises an alert.")
    ] = 3_600
    open: Annotated[
        bool,
        Meta(
            description="Serve other machines without API keys, if `SVD_BIND` is not loopback. Otherwise "
            "every request is rejected until there is a key."
        ),
    ] = False
    allowed_hosts: Annotated[
        Names,
        Meta(
            description="Host names under which a service without keys may be reached, separated by commas, "
            "in addition to addresses, `localhost`, this host's name and that of `SVD_BIND`; "
            "`.example.com` for all subdomains, `*` for any."
        ),
    ] = ""
    cors_origins: Annotated[
        Origins,
        Meta(
            description="Origins (`https://app.example.com`) whose pages may use the service from a browser "
            "(CORS), separated by commas; `*` for any. Default: only the service's own page."
        ),
    ] = ""
    root_path: Annotated[
        str,
        Meta(
            pattern=r"^(/[A-Za-z0-9._~-]+)*$",
            description="Path prefix under which a proxy publishes the service: `/video`. "
            "`X-Forwarded-Prefix` of `SVD_TRUSTED_PROXIES` does the same.",
        ),
    ] = ""
    trusted_proxies: Annotated[
        int,
        Meta(
            ge=0,
            le=10,
            description="Number of proxies in front of the HTTP API whose `X-Forwarded-For`, "
            "`X-Forwarded-Proto` and `X-Forwarded-Prefix` are trusted.",
        ),
    ] = 0

    # Webhooks
    webhook_secret: Annotated[
        WebhookSecrets,
        Meta(
            description="Secret that signs webhooks without keys: `whsec_` and 24 to 64 bytes in Base64; "
            "several, separated by commas, all sign. Default: generated and stored in Redis "
            "(`svd-service keys secret`)."
        ),
    ] = ""
    webhook_private: Annotated[
        bool,
        Meta(description="Allow webhooks to private, loopback and link-local addresses."),
    ] = False
    webhook_timeout: Annotated[
        float, Meta(gt=0, le=60, description="Time limit of a webhook's receiver in seconds.")
    ] = 10
    webhook_backoff: Annotated[
        float,
        Meta(
            gt=0,
            le=3_600,
            description="Seconds between the first and the second delivery attempt of a webhook; each further "
            "pause is three times as long, up to an hour.",
        ),
    ] = 5
    webhook_give_up: Annotated[
        Seconds, Meta(description="Seconds after the first delivery attempt at which retries stop.")
    ] = 86_400

    # Dialects
    openai_models: Annotated[
        str,
        Meta(
            pattern=r"^([^,]+(,[^,]+)*)?$",
            description="Names that `GET /v1/models` lists in addition to the served models, separated by "
            "commas. Requests with one of them get the default model.",
        ),
    ] = "sora-2,sora-2-pro"
    openai_strict: Annotated[
        bool,
        Meta(
            description="Reject `seconds` and `size` at `/v1/videos` (422) unless the model makes them "
            "without further segments and without scaling."
        ),
    ] = False

    # HTTP API
    bind: Annotated[str, Meta(description="Address and port of the HTTP API (gunicorn).")] = "127.0.0.1:8000"
    api_processes: Annotated[int, Meta(ge=1, description="Number of gunicorn processes.")] = 2
    api_threads: Annotated[
        int,
        Meta(ge=2, description="Threads of each process for requests with a body, and as many for all others."),
    ] = 16
    api_streams: Annotated[
        int,
        Meta(ge=0, description="Maximum number of open event streams of each process; each has an additional thread."),
    ] = 32
    streams_per_key: Annotated[
        int,
        Meta(
            ge=1,
            description="Maximum number of open event streams of a key, or of an address without keys, in "
            "each process.",
        ),
    ] = 16
    client_timeout: Annotated[
        float,
        Meta(
            gt=0,
            le=600,
            description="Seconds for the head of a request to arrive, and for its body and the reading of the "
            "response before `SVD_CLIENT_MIN_RATE` applies.",
        ),
    ] = 10
    client_min_rate: Annotated[
        float,
        Meta(
            ge=1,
            description="Minimum rate of a client in bytes per second, for sending a body and reading a "
            "response; slower clients are disconnected (408).",
        ),
    ] = 2_000
    stream_lifetime: Annotated[
        float,
        Meta(
            gt=0,
            description="Maximum duration of an event stream in seconds; clients reconnect while their key is valid.",
        ),
    ] = 900.0

    # Observability
    multiprocess_dir: Annotated[
        Path | None,
        Meta(
            description="Folder of the request counters of gunicorn's processes; emptied at start. Default: a "
            "temporary folder."
        ),
    ] = None
    log_format: Annotated[Literal["plain", "json"], Meta(description="`plain`, or `json` for one object per line.")] = (
        "plain"
    )
    tracing: Annotated[
        bool,
        Meta(
            description="Send spans to the OpenTelemetry collector of `OTEL_EXPORTER_OTLP_ENDPOINT`. Needs "
            "the extra `otel`."
        ),
    ] = False
    access_log: Annotated[
        bool, Meta(description="Log every response of the HTTP API; `/health` and `/metrics` only if they fail.")
    ] = True
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], Meta(description="Minimum level of log lines.")
    ] = "INFO"
    secrets_dir: Annotated[
        Path,
        Meta(
            description="Folder of secrets, each in a file named like its variable (`SVD_WEBHOOK_SECRET`), as "
            "Docker and Kubernetes mount them. A variable overrides its file."
        ),
    ] = Path("/run/secrets")
    exporter_bind: Annotated[str, Meta(description="Address and port of the Prometheus exporter.")] = "127.0.0.1:9808"
    flower_bind: Annotated[str, Meta(description="Address and port of Flower.")] = "127.0.0.1:5555"
    flower_basic_auth: Annotated[
        Credentials | None,
        Meta(
            description="`user:password` of Flower. Default: generated at start and shown once.",
        ),
    ] = None

    @classmethod
    def load(cls) -> "Settings":
        """Settings from the environment and, for missing variables, from `.env` in the current folder.

        Secrets that are in neither are read from `SVD_SECRETS_DIR`.

        Raises:
            ConfigurationError: a variable has an invalid value.
        """
        values = {**_from_dotenv(), **os.environ}
        folder = cls.from_mapping(values).secrets_dir
        return cls.from_mapping({**values, **_from_files(folder, values)})

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> "Settings":
        """Settings from a mapping of variable names alone; an empty value counts as missing.

        Raises:
            ConfigurationError: a variable has an invalid value.
        """
        given = {name: values[name] for name in cls.variables().values() if values.get(name) not in {None, ""}}
        for old, field in _DEPRECATED.items():
            if values.get(old) not in {None, ""}:
                warnings.warn(f"{old} is deprecated: use {variable(field)}", FutureWarning, stacklevel=2)
                given.setdefault(variable(field), values[old])
        # One by one, so that the message names the variable and its value.
        for name, value in given.items():
            try:
                msgspec.convert({name: value}, cls, strict=False, dec_hook=_path)
            except (msgspec.ValidationError, ValueError) as error:
                raise _unusable(name, value, str(error).removesuffix(f" - at `$.{name}`")) from None
        settings = msgspec.convert(given, cls, strict=False, dec_hook=_path)
        for name, reason in _faults(settings):
            raise _unusable(variable(name), getattr(settings, name), reason)
        return _consistent(settings)

    @classmethod
    def variables(cls) -> dict[str, str]:
        """The environment variable of each field."""
        return {field.name: field.encode_name for field in msgspec.structs.fields(cls)}

    @property
    def redis(self) -> str:
        """URL of the Redis that holds the ledger, Celery's queue and its results."""
        return self.redis_url or f"redis://{self.redis_host or 'localhost'}:{self.redis_port}/0"

    @property
    def redis_tls(self) -> dict[str, str] | None:
        """TLS options for Redis, as redis-py's and Celery's keywords; `None` without TLS."""
        if not self.redis.startswith("rediss://"):
            return None
        files = {
            "ssl_ca_certs": self.redis_ca_file,
            "ssl_certfile": self.redis_cert_file,
            "ssl_keyfile": self.redis_key_file,
        }
        return {"ssl_cert_reqs": "required", **{name: str(path) for name, path in files.items() if path}}

    @property
    def sentinels(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each Sentinel; empty without Sentinels."""
        named = (name.rpartition(":") for name in _named(self.redis_sentinels))
        return tuple((host, int(port)) for host, _, port in named)

    @property
    def sentinel_master(self) -> str:
        """The Sentinels' name of our Redis master."""
        # Not by urlsplit, which converts it to lower case.
        return self.redis.partition("://")[2].partition("/")[0].rpartition("@")[2].partition(":")[0]

    @property
    def allowed_host_list(self) -> tuple[str, ...]:
        """Host names under which a service without keys may be reached."""
        return _named(self.allowed_hosts)

    @property
    def cors_origin_list(self) -> tuple[str, ...]:
        """Origins whose pages may use the service."""
        return _named(self.cors_origins)

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the HTTP API: `SVD_BIND` is a loopback address or a Unix socket."""
        host = self.bind.rpartition(":")[0].strip("[]")
        try:
            return self.bind.startswith(("unix:", "fd:")) or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def broker(self) -> str:
        """The same Redis in Celery's notation."""
        if not self.sentinels:
            return self.redis.replace("unix://", "redis+socket://", 1)
        address, _, database = self.redis.partition("://")[2].partition("/")
        credentials, at, _ = address.rpartition("@")
        return ";".join(f"sentinel://{credentials}{at}{host}:{port}/{database}" for host, port in self.sentinels)

    @property
    def worker_devices(self) -> tuple[str, ...]:
        """One device per worker process, by process index: CUDA device numbers or `cpu`."""
        return _named(self.devices) or cuda_devices() or ("cpu",)

    @property
    def worker_profiles(self) -> tuple[str, ...]:
        """The profiles that this host's worker accepts; empty: all."""
        return tuple(sorted(set(_named(self.profiles))))

    @property
    def model_source(self) -> str:
        """Hub id or folder of the model that this host uses."""
        return self.model or (CPU_MODEL if set(self.worker_devices) == {"cpu"} else CUDA_MODEL)


def _from_dotenv() -> dict[str, str | None]:
    """The variables in `.env`. An editor may have put a mark of UTF-8 before the first."""
    try:
        return dotenv_values(".env", encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{Path('.env').resolve()}: not UTF-8; save the file in that encoding") from None
    except OSError as error:
        raise ConfigurationError(f"{Path('.env').resolve()}: {error.strerror}") from None


def _from_files(folder: Path, values: Mapping[str, object]) -> dict[str, str]:
    """The secrets that are not among `values` and have a file in `folder`."""
    found = {}
    for name in sorted(variable(field) for field in _SECRET):
        path = folder / name
        if values.get(name) in {None, ""} and path.is_file():
            try:
                found[name] = path.read_text(encoding="utf-8-sig").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigurationError(f"{path}: cannot read the secret: {error}") from None
    return found


def _unusable(name: str, value: object, reason: str) -> ConfigurationError:
    hidden = name in {variable(field) for field in _SECRET}
    shown = "***" if hidden else repr(str(value) if isinstance(value, Path) else value)
    return ConfigurationError(f"{name}={shown}: {reason}")


def _faults(settings: Settings) -> Iterator[tuple[str, str]]:
    """Each field whose value cannot be used although it is of the right type, and why."""
    for field in Settings.__struct_fields__:
        value = getattr(settings, field)
        number = {int: setting_checks.count, float: setting_checks.seconds}.get(type(value))
        if number and (fault := number(value)):
            yield field, fault
    checks: list[tuple[str, Callable[[Any], str | None]]] = [
        ("bind", functools.partial(setting_checks.address, sockets=True)),
        ("exporter_bind", setting_checks.address),
        ("flower_bind", setting_checks.address),
        ("redis_url", setting_checks.redis_url),
        ("redis_sentinels", setting_checks.ports),
        ("s3_endpoint", setting_checks.ports),
        ("s3_public_endpoint", setting_checks.ports),
        ("data_dir", setting_checks.folder),
    ]
    for field, check in checks:
        value = getattr(settings, field)
        if value and (fault := check(value)):
            yield field, fault


def _consistent(settings: Settings) -> Settings:
    """`settings`, if what they say of Redis makes sense together."""
    files = (settings.redis_ca_file, settings.redis_cert_file, settings.redis_key_file)
    if any(files) and settings.redis_tls is None:
        raise ConfigurationError("REDIS_CA_FILE, REDIS_CERT_FILE and REDIS_KEY_FILE want a REDIS_URL with rediss://")
    if (settings.redis_cert_file is None) != (settings.redis_key_file is None):
        raise ConfigurationError("REDIS_CERT_FILE and REDIS_KEY_FILE belong together: set both or neither")
    if settings.sentinels and not (settings.redis_url or "").startswith(("redis://", "rediss://")):
        raise ConfigurationError(
            "REDIS_SENTINELS wants a REDIS_URL whose host is the master's name: redis://mymaster/0"
        )
    return settings


def _named(listed: str) -> tuple[str, ...]:
    """The names of a list with commas between."""
    return tuple(name.strip() for name in listed.split(",") if name.strip())


def _path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value).expanduser().resolve()
    raise NotImplementedError(kind)


@functools.cache
def cuda_devices() -> tuple[str, ...]:
    """Names of the NVIDIA devices that are here, found without loading CUDA, which counts them from 0.

    A container that was given some of a host's devices sees files with the host's numbers. Where somebody has left this
    process some of the devices (`CUDA_VISIBLE_DEVICES`, which a worker's processes narrow further), these are meant: by
    number, or by a name of CUDA's own.
    """
    found = tuple(str(number) for number, _ in enumerate(glob.glob("/dev/nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not found or visible is None:
        return found
    # CUDA heeds what stands before the first that is none.
    named = (name.strip() for name in visible.split(","))
    return tuple(itertools.takewhile(lambda name: name in found or name.startswith(("GPU-", "MIG-")), named))


@functools.cache
def settings() -> Settings:
    """This process's settings, read once.

    Raises:
        ConfigurationError: a variable has an invalid value.
    """
    return Settings.load()


def hub_variables() -> dict[str, str]:
    """The variables of the Hugging Face hub's client (`HF_TOKEN`, `HF_HOME`, …) that `.env` in this folder sets."""
    return {name: value for name, value in dotenv_values(".env").items() if name.startswith("HF_") and value}
