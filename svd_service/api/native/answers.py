"""Jobs and groups as the native dialect answers with them."""

from svd_service.api.http.paths import public_path
from svd_service.jobs.group import Group
from svd_service.jobs.job import Job
from svd_service.presentation import GroupView, JobView


def job_view(job: Job) -> JobView:
    """The representation of `job`, with paths as the present request's client reaches them."""
    return JobView.of(job, public_path(""))


def group_view(group: Group) -> GroupView:
    """The representation of `group`, with paths as the present request's client reaches them."""
    return GroupView.of(group, public_path(""))
