"""Selection of the artifact store by the settings."""

import importlib.util
from pathlib import Path
from urllib.parse import urlsplit

from svd_service.artifacts.base import ArtifactStore
from svd_service.artifacts.local import LocalArtifacts
from svd_service.config import ConfigurationError, Settings


def store_of(settings: Settings) -> ArtifactStore:
    """The store that the settings select, without checking whether it can be reached.

    Raises:
        ConfigurationError: it is a bucket, and the extra `s3` is not installed, or one half of the access key is
        missing.
    """
    place = settings.artifacts
    if not place.startswith("s3://"):
        return LocalArtifacts(Path(place) if place else settings.data_dir)
    # Only looked up: importing it would cost time in processes that never use an artifact.
    if importlib.util.find_spec("obstore") is None:
        raise ConfigurationError(f"SVD_ARTIFACTS={place!r}: not installed; pip install 'svd-service[s3]'")
    if bool(settings.s3_access_key_id) != bool(settings.s3_secret_access_key):
        raise ConfigurationError("SVD_S3_ACCESS_KEY_ID and SVD_S3_SECRET_ACCESS_KEY: set both or neither")
    from svd_service.artifacts.s3 import Bucket, S3Artifacts  # noqa: PLC0415

    url = urlsplit(place)
    bucket = Bucket(
        name=url.netloc,
        prefix=url.path.strip("/"),
        endpoint=settings.s3_endpoint,
        public_endpoint=settings.s3_public_endpoint,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=settings.s3_secret_access_key,
        path_style=settings.s3_path_style,
    )
    return S3Artifacts(bucket, settings.data_dir / ".staging")
