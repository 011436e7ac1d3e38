"""The workers as operators see them."""

from svd_service.api.admin.schema import AdminWorkerView
from svd_service.ledger import Ledger
from svd_service.ledger.controls import Note, node_of


def worker_views(ledger: Ledger) -> list[AdminWorkerView]:
    """The ready and preparing worker processes, and the names held back of which none runs."""
    held_back, running = ledger.controls.held_back(), ledger.jobs.running()
    steps = ledger.stats.step_seconds()

    def note_of(worker: str) -> Note | None:
        return held_back.get(worker) or held_back.get(node_of(worker))

    views = []
    for status in ledger.workers.ready():
        note, job = note_of(status.worker), running.get(status.worker)
        memory = status.device_memory
        views.append(
            AdminWorkerView(
                worker=status.worker,
                state=note.kind if note else "ready",
                device=status.device,
                model=status.model,
                profiles=list(status.profiles),
                memory=status.memory,
                memory_used=memory.used if memory else None,
                memory_size=memory.size if memory else None,
                job=job.id if job else None,
                step_seconds=steps.get(status.device),
                progress=job.progress.fraction if job and job.progress else None,
                reason=note.reason if note else "",
            )
        )
    for preparing in ledger.workers.preparing():
        note = note_of(preparing.worker)
        state = note.kind if note else "preparing"
        views.append(
            AdminWorkerView(worker=preparing.worker, state=state, reason=note.reason if note else preparing.doing)
        )
    shown = {name for view in views for name in (view.worker, node_of(view.worker))}
    absent = ((name, note) for name, note in held_back.items() if name not in shown)
    return [*views, *(AdminWorkerView(worker=name, state=note.kind, reason=note.reason) for name, note in absent)]
