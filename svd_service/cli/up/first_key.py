"""The first API key of a service that other machines can reach."""

from svd_service.config import Settings
from svd_service.ledger.api_keys import Keyring
from svd_service.ledger.connection import connect
from svd_service.parameters import MAX_PRIORITY


def make_first_key(settings: Settings) -> str | None:
    """Create a key if other machines can reach the service and it has none; returns its secret, or `None`."""
    with connect(settings) as client:
        keyring = Keyring(client, settings)
        if settings.is_local or settings.open or keyring.count() or keyring.has_lost_its_keys():
            return None
        return keyring.create("first", priority=MAX_PRIORITY)[1]
