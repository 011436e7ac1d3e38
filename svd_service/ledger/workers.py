"""Worker processes and the models that they hold, as recorded in the ledger."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final, Self

from svd_service.jobs.model import Model
from svd_service.jobs.routing import queue_of
from svd_service.ledger.connection import reachable
from svd_service.ledger.record import DAMAGE, dump, known_fields
from svd_service.ledger.scripts import Scripts

#: Seconds between two heartbeats of a worker process, and the heartbeat timeout.
HEARTBEAT: Final = 2.0
WORKER_TIMEOUT: Final = 3 * HEARTBEAT + 1


@dataclass(frozen=True)
class DeviceMemory:
    """A device's memory, in bytes: its size, how much is in use by any process, and how much the worker process
    reserves for its tensors.
    """

    size: int
    used: int
    reserved: int


@dataclass(frozen=True)
class WorkerStatus:
    """One worker process that holds the model. Times are seconds since the epoch; `load_seconds` is a duration.

    `memory` names its memory plan, `device_memory` is the state of the device's own memory, where it has its own;
    `profiles` are those whose jobs it takes (none: all); `content_credentials`: whether and as whom it signs.
    """

    worker: str
    device: str
    instance: str
    pid: int
    model: str
    trained: bool
    ready_since: float
    load_seconds: float
    seen_at: float = 0.0
    memory: str = ""
    device_memory: DeviceMemory | None = None
    profiles: tuple[str, ...] = ()
    content_credentials: str = ""

    @property
    def queue(self) -> str:
        """The queue that it takes jobs from."""
        return queue_of(self.model, self.profiles)

    @classmethod
    def from_json(cls, record: str, seen_at: float) -> Self:
        """The status in a worker's own record. Fields of a newer version are ignored."""
        values = known_fields(cls, record)
        memory = DeviceMemory(**values["device_memory"]) if values.get("device_memory") else None
        profiles = tuple(values.get("profiles", ()))
        return cls(**{**values, "seen_at": seen_at, "device_memory": memory, "profiles": profiles})


@dataclass(frozen=True)
class Preparing:
    """A worker process that is not ready yet: what it is `doing`, and since when (seconds since the epoch)."""

    worker: str
    doing: str
    since: float


class Workers:
    """Which worker processes are ready or preparing, and which models are available."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._redis = scripts.redis

    def heartbeat(self, status: WorkerStatus) -> bool:
        """Record that a worker process holds the model and is alive; returns whether the model is described."""
        known = self._scripts.run(
            "heartbeat",
            worker=status.worker,
            status=dump(asdict(status)),
            device=status.device,
            queue=status.queue,
        )
        return bool(known)

    def leave(self, worker: str) -> None:
        """Record that a worker process takes no more jobs."""
        self._scripts.run("leave", worker=worker)

    def prepare(self, preparing: Preparing) -> None:
        """Record that a worker process is alive, and why it is not ready yet."""
        self._scripts.run("prepare", worker=preparing.worker, status=dump(asdict(preparing)))

    def ready(self) -> list[WorkerStatus]:
        """The worker processes that are ready, by name."""
        found = []
        for seen, status in self._live("workers", "worker_status"):
            with suppress(*DAMAGE):  # damaged, until its next heartbeat
                found.append(WorkerStatus.from_json(status, seen))
        return sorted(found, key=lambda worker: worker.worker)

    def preparing(self) -> list[Preparing]:
        """The worker processes that are not ready yet, by name."""
        found = []
        for _, status in self._live("preparing", "preparing_status"):
            with suppress(*DAMAGE):
                found.append(Preparing(**json.loads(status)))
        return sorted(found, key=lambda preparing: preparing.worker)

    def _live(self, set_: str, statuses: str) -> list[tuple[float, str]]:
        """Time of the last heartbeat, and status, of the workers that have one."""
        answer = self._scripts.run("workers", set=set_, statuses=statuses, worker_timeout=WORKER_TIMEOUT)
        return [(float(seen), status) for seen, status in zip(answer[1::3], answer[2::3], strict=True) if status]

    def introduce(self, model: Model) -> None:
        """Store the description of a model that a worker holds."""
        with reachable():
            self._redis.hset(self._scripts.key("model_descriptions"), model.name, dump(model.to_dict()))

    def models(self) -> list[Model]:
        """The models that workers have registered and that are not expired, by name."""
        with reachable():
            descriptions = self._redis.hgetall(self._scripts.key("model_descriptions"))
        return [model for _, description in sorted(descriptions.items()) if (model := _model(description))]

    def model(self, name: str) -> Model | None:
        """The registered model of that name."""
        with reachable():
            description = self._redis.hget(self._scripts.key("model_descriptions"), name)
        return _model(description) if description else None


def _model(description: str | bytes) -> Model | None:
    """The model; `None` where its description is damaged, until a worker registers it again."""
    try:
        return Model.from_dict(json.loads(description))
    except DAMAGE:
        return None
