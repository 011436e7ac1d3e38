"""Deprecated name of `svd_service.webhooks.app`, kept for one release."""

import warnings

from svd_service.webhooks.app import app

__all__ = ["app"]

warnings.warn(f"{__name__} is deprecated: use svd_service.webhooks.app", DeprecationWarning, stacklevel=2)
