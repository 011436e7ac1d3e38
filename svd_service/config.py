"""Settings: every setting with its default, which may be edited here, and its description.

A module gets its values from a `Settings`; a process has its own from `settings()`, read once, and tests build theirs
from a mapping with `Settings.from_mapping`. `svd_service/environment/` reads the variables and checks their values.
"""

import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from svd_service.environment import ConfigurationError, checks, conversion, sources
from svd_service.environment.devices import cuda_devices
from svd_service.environment.redis_address import RedisAddress
from svd_service.environment.types import (
    HTTPURL,
    Address,
    Addresses,
    AddressOrSocket,
    CommandLine,
    Credentials,
    Devices,
    Folder,
    HashedKeys,
    Host,
    HostNames,
    ModelNames,
    ModelSource,
    Namespace,
    Optimizations,
    Origins,
    PathPrefix,
    Pixels,
    Port,
    Profiles,
    RedisURL,
    Region,
    Seconds,
    Secret,
    ServiceURL,
    Size,
    StorePlace,
    WebhookSecrets,
)

__all__ = ["CPU_MODEL", "CUDA_MODEL", "ConfigurationError", "Settings", "SettingsFields", "settings", "variable"]

#: The model of a machine with CUDA, and that of every other machine.
CUDA_MODEL: Final = "stabilityai/stable-video-diffusion-img2vid-xt"
CPU_MODEL: Final = str(Path(__file__).resolve().parent / "models" / "nano")

#: Deprecated environment variables and the fields that have their values, for one release.
_DEPRECATED: Final = {"SVD_LEVERS": "optimizations"}


def variable(field: str) -> str:
    """The environment variable that sets `field`."""
    if field == "multiprocess_dir":
        return "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it, too
    return field.upper() if field.startswith(("redis_", "video_")) else f"SVD_{field.upper()}"


class SettingsFields(msgspec.Struct, frozen=True, kw_only=True, rename=variable):
    """Type, default and description of each setting. docs/configuration.md has the same descriptions."""

    # Redis
    redis_url: Secret[RedisURL] | None = None
    """URL of Redis; overrides `REDIS_HOST` and `REDIS_PORT`."""
    redis_host: Host | None = None
    """Host of Redis. Default: localhost."""
    redis_port: Port = 6379
    """Port of Redis."""
    redis_ca_file: Path | None = None
    """CA certificates for Redis' certificate, with `rediss://`. Default: the system's."""
    redis_cert_file: Path | None = None
    """Client certificate for Redis (mutual TLS)."""
    redis_key_file: Path | None = None
    """Private key of the client certificate."""
    redis_sentinels: Addresses = ""
    """Redis Sentinels as `HOST:PORT`, separated by commas. The host in `REDIS_URL` is then the master's name
    (`rediss://user:password@mymaster/0`)."""
    redis_sentinel_auth: Secret[Credentials] | None = None
    """`user:password` for the Sentinels."""
    namespace: Namespace = "svd"
    """Prefix of all Redis keys and Celery queue names."""

    # The model
    model: ModelSource | None = None
    """Hub id or folder in diffusers' layout. Default: SVD-XT with a CUDA device, else the nano model of the
    package. A worker loads it; the API uses it for requests without a model."""
    model_revision: str | None = None
    """Branch, tag or commit of a hub model."""
    devices: Devices = ""
    """Devices of this host's worker, one process each: CUDA numbers (`0,1`), names of `nvidia-smi -L` (`GPU-…`,
    `MIG-…`), or `cpu`. Default: every CUDA device (of `CUDA_VISIBLE_DEVICES`, if set), or one CPU process."""
    profiles: Profiles = ""
    """Profiles that this host's worker accepts: `draft`, or `exact`. Default: all."""
    cpu_threads: Annotated[int, Meta(ge=0)] = 0
    """Threads of a CPU process; 0: the cores divided by the processes."""
    optimizations: Optimizations = "auto"
    """Optimizations: `auto` (the device's defaults), `none`, and names to add or, with a `-`, to remove:
    `-fused_qkv`, `none,lerp`."""
    memory: Literal["auto", "fast", "lean", "small", "least"] = "auto"
    """Memory plan of a CUDA device, from the fastest to the smallest; `auto`: the fastest that fits into the free
    memory."""
    video_width: Size | None = None
    """Default width in pixels. Default: the model's."""
    video_height: Size | None = None
    """Default height in pixels. Default: the model's."""
    video_frames: Annotated[int, Meta(ge=2, le=100)] | None = None
    """Default number of frames. Default: the model's."""

    # Images and videos
    data_dir: Folder = msgspec.field(default_factory=lambda: Path("data").resolve())
    """Local folder for logs, temporary files and, unless `SVD_ARTIFACTS` is set, images and videos."""
    artifacts: StorePlace = ""
    """Artifact store: `s3://BUCKET/PREFIX` (extra `s3`), or the absolute path of a folder that all hosts share.
    Default: `SVD_DATA_DIR`."""
    s3_endpoint: HTTPURL | None = None
    """URL of the S3-compatible store. Default: AWS in the region."""
    s3_region: Region = "us-east-1"
    """Region of the store."""
    s3_access_key_id: str | None = None
    """Access key of the store. Default: AWS' instance metadata or `AWS_…` variables."""
    s3_secret_access_key: Secret[str] | None = None
    """Secret of the access key."""
    s3_path_style: bool = True
    """Put the bucket into the URL's path instead of the host name."""
    s3_redirect: bool = False
    """Redirect downloads to a presigned store URL (307)."""
    s3_redirect_ttl: Annotated[int, Meta(ge=1, le=604_800)] = 300
    """Validity of presigned URLs in seconds."""
    s3_public_endpoint: HTTPURL | None = None
    """URL of the store for clients, used in presigned URLs. Default: `SVD_S3_ENDPOINT`."""
    max_upload_bytes: Annotated[int, Meta(ge=1_000)] = 20_000_000
    """Maximum size of an image in bytes."""
    max_pixels: Pixels = 50_000_000
    """Maximum size of an image in pixels."""
    image_decoders: Annotated[int, Meta(ge=1, le=64)] = 2
    """Processes of each API process that decode images. One needs up to 1 GB for the largest image; images above 16
    megapixels are decoded one at a time in each API process."""
    previews: bool = True
    """Show a low-resolution preview about once a second during sampling."""
    result_ttl: Seconds = 86_400
    """Retention of results in seconds."""
    record_ttl: Seconds = 604_800
    """Retention of a job's record in seconds, after its result is deleted (410, then 404)."""
    keep_inputs: Annotated[float, Meta(ge=0)] = 0.0
    """Retention of a failed job's image in seconds, so that an operator can retry the job; 0: it is deleted at once."""
    content_cache: bool = False
    """Copy the video of an earlier identical job of the same key, for jobs with an explicit seed."""
    fetch_urls: bool = False
    """Accept images by http(s) URL; downloaded from public addresses only."""

    # Content Credentials
    c2pa: Literal["on", "off"] = "on"
    """Sign every file with Content Credentials (C2PA), which mark it as generated. Needs the extra `c2pa`; without it,
    the worker logs a warning."""
    c2pa_cert_file: Path | None = None
    """Certificates that sign, as PEM, the signer's first. Default: a self-signed chain, generated once per
    installation (the signer is unknown to others)."""
    c2pa_key_file: Path | None = None
    """Private key of the signer's certificate, as PEM."""
    c2pa_timestamp_url: ServiceURL | None = None
    """Time-stamp authority (RFC 3161) for signatures. Default: no time stamps."""

    # Moderation
    moderation_url: ServiceURL | None = None
    """Hook that allows or rejects each image: a signed POST (docs/moderation.md). Default: nothing is moderated."""
    moderation_command: CommandLine = ""
    """The same as a command: JSON on its standard input, the verdict on its standard output."""
    moderation_results: bool = False
    """Also moderate three frames of each video before it becomes visible; there are no previews then."""
    moderation_timeout: Annotated[float, Meta(gt=0, le=120)] = 10
    """Time limit of a verdict in seconds."""
    moderation_on_error: Literal["closed", "open"] = "closed"
    """Policy while the hook gives no verdict: `closed` rejects submissions (503) and retries results; `open` allows
    everything."""

    # Jobs
    max_attempts: Annotated[int, Meta(ge=1, le=10)] = 3
    """Maximum number of attempts, if attempts are lost or retried, before a job fails."""
    lease: Annotated[float, Meta(ge=1)] = 10
    """Lease of a running job in seconds; when a lost worker does not renew it, the job is requeued."""
    max_seconds: Seconds = 30
    """Maximum length of a video in seconds, including all segments and interpolated frames."""
    max_output_pixels: Annotated[int, Meta(ge=4_096, le=16_777_216)] = 4_194_304
    """Maximum area of a video in pixels, after scaling (`size`, `output_width`)."""
    job_timeout: Annotated[float, Meta(ge=1)] = 3_600
    """Time limit of an attempt in seconds; then the job fails."""
    drain_timeout: Annotated[float, Meta(ge=0)] = 25
    """Seconds for a running job to finish at shutdown; then it is requeued at its next step."""

    # Access and limits
    api_keys: Secret[HashedKeys] = ""
    """API keys as `NAME:SHA256` or `NAME:SHA256:PRIORITY`, separated by commas; in addition to those of
    `svd-service keys`."""
    rate_limit: Annotated[int, Meta(ge=0)] = 0
    """Maximum number of requests per minute of a key, or of an address without keys; 0: no limit."""
    max_queued: Annotated[int, Meta(ge=1)] = 1_000
    """Maximum number of queued jobs (429 beyond)."""
    max_queued_per_key: Annotated[int, Meta(ge=1)] = 500
    """Maximum number of queued jobs of one key."""
    max_pinned_per_key: Annotated[int, Meta(ge=0)] = 50
    """Maximum number of videos that one key may keep beyond their retention; 0: none."""
    page_lists_jobs: bool = False
    """Without API keys, list all jobs on the page, not only those of the visitor's browser."""
    longest_wait: Seconds = 3_600
    """Age of a queued job in seconds at which Prometheus raises an alert."""
    open: bool = False
    """Serve other machines without API keys, if `SVD_BIND` is not loopback. Otherwise every request is rejected
    until there is a key."""
    allowed_hosts: HostNames = ""
    """Host names under which a service without keys may be reached, separated by commas, in addition to addresses,
    `localhost`, this host's name and that of `SVD_BIND`; `.example.com` for all subdomains, `*` for any."""
    cors_origins: Origins = ""
    """Origins (`https://app.example.com`) whose pages may use the service from a browser (CORS), separated by
    commas; `*` for any. Default: only the service's own page."""
    root_path: PathPrefix = ""
    """Path prefix under which a proxy serves it: `/video`. `X-Forwarded-Prefix` of
    `SVD_TRUSTED_PROXIES` does the same."""
    trusted_proxies: Annotated[int, Meta(ge=0, le=10)] = 0
    """Number of proxies in front of the HTTP API whose `X-Forwarded-For`, `X-Forwarded-Proto` and
    `X-Forwarded-Prefix` are trusted."""

    # Webhooks
    webhook_secret: Secret[WebhookSecrets] = ""
    """Secret that signs webhooks without keys: `whsec_` and 24 to 64 bytes in Base64; several, separated by commas,
    all sign. Default: generated and stored in Redis (`svd-service keys secret`)."""
    webhook_private: bool = False
    """Allow webhooks to private, loopback and link-local addresses."""
    webhook_timeout: Annotated[float, Meta(gt=0, le=60)] = 10
    """Time limit of a webhook's receiver in seconds."""
    webhook_backoff: Annotated[float, Meta(gt=0, le=3_600)] = 5
    """Seconds between the first and the second delivery attempt of a webhook; each further pause is three times as
    long, up to an hour."""
    webhook_give_up: Seconds = 86_400
    """Seconds after the first delivery attempt at which retries stop."""

    # Dialects
    openai_models: ModelNames = "sora-2,sora-2-pro"
    """Names that `GET /v1/models` lists in addition to the served models, separated by commas. Requests with one of
    them get the default model."""
    openai_strict: bool = False
    """Reject `seconds` and `size` at `/v1/videos` (422) unless the model makes them without further segments and
    without scaling."""

    # HTTP API
    bind: AddressOrSocket = "127.0.0.1:8000"
    """Address and port of the HTTP API (gunicorn)."""
    api_processes: Annotated[int, Meta(ge=1)] = 2
    """Number of gunicorn processes."""
    api_threads: Annotated[int, Meta(ge=2)] = 16
    """Threads of each process for requests with a body, and as many for all others."""
    api_streams: Annotated[int, Meta(ge=0)] = 32
    """Maximum number of open event streams and waiting submissions (`Prefer: wait`) of each process; each has an
    additional thread."""
    streams_per_key: Annotated[int, Meta(ge=1)] = 16
    """Maximum number of open event streams and waiting submissions of a key, or of an address without keys, in each
    process."""
    max_wait: Annotated[int, Meta(ge=0, le=3_600)] = 300
    """Maximum number of seconds for which a submission with `Prefer: wait` waits for its video; 0: never."""
    client_timeout: Annotated[float, Meta(gt=0, le=600)] = 10
    """Seconds for the head of a request to arrive, and for its body and the reading of the response before
    `SVD_CLIENT_MIN_RATE` applies."""
    client_min_rate: Annotated[float, Meta(ge=1)] = 2_000
    """Minimum rate of a client in bytes per second, for sending a body and reading a response; slower clients are
    disconnected (408)."""
    stream_lifetime: Seconds = 900.0
    """Maximum duration of an event stream in seconds; clients reconnect while their key is valid."""

    # Observability
    multiprocess_dir: Path | None = None
    """Folder of the request counters of gunicorn's processes, which alone use it; emptied at start. Default: a
    temporary folder."""
    log_format: Literal["plain", "json"] = "plain"
    """`plain`, or `json` for one object per line."""
    tracing: bool = False
    """Send spans to the OpenTelemetry collector of `OTEL_EXPORTER_OTLP_ENDPOINT`. Needs the extra `otel`."""
    access_log: bool = True
    """Log every response of the HTTP API; `/health` and `/metrics` only if they fail."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Minimum level of log lines."""
    secrets_dir: Path = Path("/run/secrets")
    """Folder of secrets, each in a file named like its variable (`SVD_WEBHOOK_SECRET`), as Docker and Kubernetes
    mount them. A variable overrides its file."""
    exporter_bind: Address = "127.0.0.1:9808"
    """Address and port of the Prometheus exporter."""
    flower_bind: Address = "127.0.0.1:5555"
    """Address and port of Flower."""
    flower_basic_auth: Secret[Credentials] | None = None
    """`user:password` of Flower. Default: generated at start and shown once."""


class Settings(SettingsFields, frozen=True, kw_only=True):
    """The settings of a process, and what follows from them."""

    @classmethod
    def load(cls) -> "Settings":
        """Settings from the environment and, for missing variables, from `.env` in the current folder.

        Secrets that are in neither are read from `SVD_SECRETS_DIR`.

        Raises:
            ConfigurationError: a variable has an invalid value.
        """
        values = sources.variables()
        folder = cls.from_mapping(values).secrets_dir
        return cls.from_mapping({**values, **sources.secret_files(folder, conversion.secrets(cls), values)})

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> "Settings":
        """Settings from a mapping of variable names alone; an empty value counts as missing.

        Raises:
            ConfigurationError: a variable has an invalid value.
        """
        named = dict(values)
        for old, field in _DEPRECATED.items():
            if conversion.is_set(values, old):
                warnings.warn(f"{old} is deprecated: use {variable(field)}", FutureWarning, stacklevel=2)
                if not conversion.is_set(values, variable(field)):
                    named[variable(field)] = values[old]
        settings = conversion.convert(cls, named)
        settings.redis_address.check(has_url=settings.redis_url is not None)
        if (settings.c2pa_cert_file is None) != (settings.c2pa_key_file is None):
            raise ConfigurationError("SVD_C2PA_CERT_FILE and SVD_C2PA_KEY_FILE belong together: set both or neither")
        if settings.moderation_url is not None and settings.moderation_command:
            raise ConfigurationError(
                "SVD_MODERATION_URL and SVD_MODERATION_COMMAND exclude each other: set one of them"
            )
        return settings

    @classmethod
    def variables(cls) -> dict[str, str]:
        """The environment variable of each field."""
        return {field.name: field.encode_name for field in msgspec.structs.fields(cls)}

    @property
    def redis(self) -> str:
        """URL of the Redis that holds the ledger, Celery's queue and its results."""
        host = self.redis_host or "localhost"
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        return self.redis_url or f"redis://{host}:{self.redis_port}/0"

    @property
    def sentinels(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each Sentinel; empty without Sentinels."""
        named = (name.rpartition(":") for name in _named(self.redis_sentinels))
        return tuple((host, int(port)) for host, _, port in named)

    @property
    def redis_address(self) -> RedisAddress:
        """The connection to Redis: TLS options, Sentinels and Celery's notation."""
        files = (self.redis_ca_file, self.redis_cert_file, self.redis_key_file)
        return RedisAddress(self.redis, *files, sentinels=self.sentinels)

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
        return checks.is_local(self.bind)

    @property
    def worker_devices(self) -> tuple[str, ...]:
        """One device per worker process, by process index: CUDA device numbers or names, or `cpu`."""
        return _named(self.devices) or cuda_devices() or ("cpu",)

    @property
    def worker_profiles(self) -> tuple[str, ...]:
        """The profiles that this host's worker accepts; empty: all."""
        return tuple(sorted(set(_named(self.profiles))))

    @property
    def model_source(self) -> str:
        """Hub id or folder of the model that this host uses."""
        return self.model or (CPU_MODEL if set(self.worker_devices) == {"cpu"} else CUDA_MODEL)


def _named(listed: str) -> tuple[str, ...]:
    """The names of a list with commas between."""
    return tuple(name.strip() for name in listed.split(",") if name.strip())


@functools.cache
def settings() -> Settings:
    """This process's settings, read once.

    Raises:
        ConfigurationError: a variable has an invalid value.
    """
    return Settings.load()
