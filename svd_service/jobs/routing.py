"""Which workers may take a job: routes and queues, as named here and in the ledger's scripts.

A job's *route* is its model and its profile, `model|profile`. A worker takes its jobs from a *queue*, `model|` or, if
it takes those of some profiles only, `model|profile,profile`. A queue exists as long as a worker takes from it.
When the ledger enqueues a job's id with Celery, it chooses one of these queues (`ledger/lua/dispatch.lua`), so workers
can come and go without any registration.
"""

from collections.abc import Iterable

_SEPARATOR = "|"


def route_of(model: str, profile: str) -> str:
    """The route of the jobs of a profile of a model."""
    return f"{model}{_SEPARATOR}{profile}"


def queue_of(model: str, profiles: Iterable[str] = ()) -> str:
    """The queue of the workers that hold a model and take the jobs of `profiles` (none: all)."""
    return f"{model}{_SEPARATOR}{','.join(sorted(profiles))}"


def celery_queue(namespace: str, queue: str) -> str:
    """The queue's name in Celery: `svd.nano`, `svd.nano@draft`."""
    model, _, profiles = queue.rpartition(_SEPARATOR)
    return f"{namespace}.{model}" + (f"@{profiles.replace(',', '+')}" if profiles else "")
