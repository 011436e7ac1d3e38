"""Celery's view of a message in a worker's parent, without the ways in which Celery discards one by itself.

The ledger decides whether a job is still to be run, the outbox whether a webhook is still to be delivered. A message of
such a job that Celery discarded would be enqueued again, and discarded again.
"""

from typing import Any

from celery.worker.request import Request


class NonExpiringRequest(Request):
    """A request that does not expire: the sender cannot know when the job will run."""

    def maybe_expire(self) -> None:
        """Do nothing: messages never expire."""


class DeliveryRequest(NonExpiringRequest):
    """The request of a webhook's delivery, which is neither revoked nor terminated."""

    def revoked(self) -> bool:
        """Always false: a delivery cannot be revoked."""
        return False

    def terminate(self, pool: Any, signal: int | None = None) -> None:
        """Do nothing: the delivery attempt in hand ends soon."""
