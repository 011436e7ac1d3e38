"""Celery's view of a message in a worker's parent, without the ways in which Celery discards one by itself.

Whether a job is still to be run the ledger knows, and whether a webhook is still to be delivered the outbox. A message
that Celery discards although they want it is published again, and discarded again.
"""

from typing import Any

from celery.worker.request import Request


class LastingRequest(Request):
    """A request that does not expire: who sends a message cannot know when it is due."""

    def maybe_expire(self) -> None:
        """Never."""


class DeliveryRequest(LastingRequest):
    """The request of a webhook's delivery, which is neither revoked nor terminated."""

    def revoked(self) -> bool:
        """Never."""
        return False

    def terminate(self, pool: Any, signal: int | None = None) -> None:
        """Do nothing: the delivery attempt in hand ends soon."""
