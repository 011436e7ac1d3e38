"""Which workers may take a job, in the words that the ledger's scripts share with the rest.

A job's *route* is its model and its profile, `model|profile`. A worker takes its jobs from a *queue*, `model|` or, if
it takes those of some profiles only, `model|profile,profile`. A queue is there for as long as a worker takes from it,
and the ledger chooses one for each job when the job's id is given to Celery; so nothing needs to be told of a worker
that comes or goes.
"""

from collections.abc import Iterable

_SEPARATOR = "|"


def route_of(model: str, profile: str) -> str:
    """The route of the jobs of a profile of a model."""
    return f"{model}{_SEPARATOR}{profile}"


def queue_of(model: str, profiles: Iterable[str] = ()) -> str:
    """The queue of the workers that hold a model and take the jobs of `profiles`; of none: of all."""
    return f"{model}{_SEPARATOR}{','.join(sorted(profiles))}"


def celery_queue(namespace: str, queue: str) -> str:
    """What Celery calls it: `svd.nano`, `svd.nano@draft`."""
    model, _, profiles = queue.rpartition(_SEPARATOR)
    return f"{namespace}.{model}" + (f"@{profiles.replace(',', '+')}" if profiles else "")
