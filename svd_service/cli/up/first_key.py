"""The first API key, for a service that other machines reach."""

from svd_service.config import Settings
from svd_service.ledger.api_keys import Keyring
from svd_service.ledger.client import connect
from svd_service.parameters import MAX_PRIORITY


def make_first_key(settings: Settings) -> str | None:
    """Make a key if other machines reach the service and it has none; its secret, or `None`."""
    with connect(settings) as client:
        keyring = Keyring(client, settings)
        if settings.is_local or settings.open or keyring.count() or keyring.has_lost_its_keys():
            return None
        return keyring.create("first", priority=MAX_PRIORITY)[1]
