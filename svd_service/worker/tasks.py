"""The one Celery task. Its message contains nothing but its id, which is the job's."""

from typing import Any, Final

from celery.exceptions import Reject

from svd_service.broker import control
from svd_service.celery_app import GENERATE, app
from svd_service.worker import maintenance, process, shutdown
from svd_service.worker.attempt import run_job
from svd_service.worker.celery_revokes import revocations
from svd_service.worker.interruptions import DeviceLostError

#: Exit status of a process whose device can no longer be used (EX_OSERR of sysexits.h).
DEVICE_LOST: Final = 71

maintenance.install(app)
shutdown.install(app)
control.install(lambda job_ids: revocations().revoke(job_ids))


@app.task(name=GENERATE, bind=True, Request="svd_service.worker.request:JobRequest")
def generate(self: Any) -> dict[str, str]:
    """Run one attempt at the job whose id is this task's."""
    context = process.context()
    if context.drain.begun:
        raise Reject("this worker shuts down", requeue=True)
    try:
        return {"attempt": run_job(self.request.id, context)}
    except DeviceLostError:
        # A CUDA context that has failed once fails forever: Celery replaces the process, which loads the model again.
        raise SystemExit(DEVICE_LOST) from None
