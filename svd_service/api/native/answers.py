"""Jobs as the native dialect answers with them."""

from svd_service.api.http.paths import public_path
from svd_service.jobs.job import Job
from svd_service.presentation import JobView


def job_view(job: Job) -> JobView:
    """The representation of `job`, with paths as the present request's client reaches them."""
    return JobView.of(job, public_path(""))
