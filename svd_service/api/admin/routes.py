"""The operators' routes: each parses, calls one use case and presents. Every act is recorded with the caller's key."""

import time
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode

from flask import Blueprint, Response, jsonify
from flask.typing import ResponseReturnValue

from svd_service.api.admin.schema import (
    ActsView,
    AdminJobList,
    AdminJobView,
    JobsQuery,
    PauseForm,
    PausesView,
    PauseView,
    PurgeForm,
    PurgeView,
    ResumeForm,
    WorkerForm,
    WorkersView,
)
from svd_service.api.admin.workers import worker_views
from svd_service.api.http import forms
from svd_service.api.http.context import jobs, key, keyring
from svd_service.api.http.openapi import ADMIN, BODY_ERRORS, Answer, View, describe, form_or_json
from svd_service.api.http.paths import public_path
from svd_service.api.native.schema import ErrorView
from svd_service.jobs.administration import Filter
from svd_service.jobs.job import Job, State
from svd_service.ledger.controls import HoldKind
from svd_service.ledger.usage import NO_KEY
from svd_service.presentation import JobView

blueprint = Blueprint("admin", __name__, url_prefix="/admin")

_UNKNOWN: Final = {404: "There is no such job."}
_INVALID: Final = {**BODY_ERRORS, 422: "A field is invalid."}


def operator() -> str:
    """The caller in the record of acts: id and name of the key."""
    shown = key()
    return f"{shown.id} ({shown.name})" if shown else ""


@blueprint.get("/jobs")
@describe(
    "admin",
    {200: Answer("A page of jobs.", AdminJobList)},
    error=ErrorView,
    errors={404: "`after` is no such job.", 422: "A query parameter is invalid."},
    query=JobsQuery,
    access=ADMIN,
)
def page() -> Response:
    """The jobs of all keys, newest first, by key, state and model."""
    query = forms.parse_query(JobsQuery)
    wanted = Filter(_owner(query.key), query.state, query.model)
    found = jobs().administration.page(wanted, after=query.after, limit=query.limit)
    following = None
    if found.after:
        given = {
            "key": query.key,
            "state": query.state,
            "model": query.model,
            "after": found.after,
            "limit": query.limit,
        }
        following = public_path(f"/admin/jobs?{urlencode({name: value for name, value in given.items() if value})}")
    return jsonify(AdminJobList(jobs=[_view(job) for job in found.jobs], next=following))


@blueprint.get("/jobs/<task_id>")
@describe("admin", {200: Answer("The job.", AdminJobView)}, error=ErrorView, errors=_UNKNOWN, access=ADMIN)
def job(task_id: str) -> Response:
    """The status of any key's job."""
    return jsonify(_view(jobs().administration.find(task_id)))


@blueprint.post("/jobs/<task_id>/cancel")
@describe("admin", {200: Answer("The job.", AdminJobView)}, error=ErrorView, errors=_UNKNOWN, access=ADMIN)
def cancel(task_id: str) -> Response:
    """Cancel a job: a queued one at once, a started one at its next step. One that has ended stays as it is."""
    cancelled = jobs().administration.cancel(task_id)
    jobs().ledger.controls.record(operator(), "cancel", task_id)
    return jsonify(_view(cancelled))


@blueprint.post("/jobs/<task_id>/retry")
@describe(
    "admin",
    {201: Answer("The new job.", AdminJobView)},
    error=ErrorView,
    errors={**_UNKNOWN, 409: "The job has not failed, or its image is no longer stored."},
    access=ADMIN,
)
def retry(task_id: str) -> ResponseReturnValue:
    """Submit a failed job again, as a new job of the same key, while its image is stored (`SVD_KEEP_INPUTS`)."""
    new = jobs().administration.retry(task_id)
    jobs().ledger.controls.record(operator(), "retry", task_id, f"as {new.id}")
    return jsonify(_view(new)), 201


@blueprint.delete("/jobs/<task_id>")
@describe("admin", {204: Answer("The job is deleted.")}, error=ErrorView, errors=_UNKNOWN, access=ADMIN)
def delete(task_id: str) -> ResponseReturnValue:
    """Delete a job and its video, whatever its state."""
    jobs().administration.delete(task_id)
    jobs().ledger.controls.record(operator(), "delete", task_id)
    return "", 204


@blueprint.post("/purge")
@describe(
    "admin",
    {200: Answer("Jobs were deleted.", PurgeView)},
    error=ErrorView,
    errors=_INVALID,
    body=form_or_json(PurgeForm),
    access=ADMIN,
)
def purge() -> Response:
    """Delete ended jobs and their videos, up to 200 at a time."""
    form = forms.parse(PurgeForm)
    wanted = Filter(_owner(form.key), State(form.state), form.model, time.time() - form.older_than)
    deleted, more = jobs().administration.purge(wanted)
    target = f"{deleted} {form.state} jobs" + (f" of {form.key}" if form.key else "")
    jobs().ledger.controls.record(operator(), "purge", target)
    return jsonify(PurgeView(deleted=deleted, more=more))


@blueprint.get("/pauses")
@describe("admin", {200: Answer("The pauses.", PausesView)}, error=ErrorView, access=ADMIN)
def pauses() -> Response:
    """What is paused, since when, by whom and why."""
    return jsonify(PausesView(paused=pause_views()))


@blueprint.post("/pause")
@describe(
    "admin",
    {200: Answer("The pauses.", PausesView)},
    error=ErrorView,
    errors=_INVALID,
    body=form_or_json(PauseForm),
    access=ADMIN,
)
def pause() -> Response:
    """Pause the intake (submissions get 503) or the dispatch (queued jobs do not start), of a model or of all.

    It lasts until it is resumed, also after a restart of every process. Started jobs continue.
    """
    form = forms.parse(PauseForm)
    jobs().ledger.controls.pause(form.what, form.model, by=operator(), reason=form.reason)
    return pauses()


@blueprint.post("/resume")
@describe(
    "admin",
    {200: Answer("The pauses that are left.", PausesView)},
    error=ErrorView,
    errors=_INVALID,
    body=form_or_json(ResumeForm),
    access=ADMIN,
)
def resume() -> Response:
    """End a pause."""
    form = forms.parse(ResumeForm)
    jobs().ledger.controls.resume(form.what, form.model, by=operator())
    jobs().dispatch()
    return pauses()


@blueprint.get("/workers")
@describe("admin", {200: Answer("The workers.", WorkersView)}, error=ErrorView, access=ADMIN)
def workers() -> Response:
    """The worker processes: device, memory, model, current job; and which of them are held back."""
    return jsonify(WorkersView(workers=worker_views(jobs().ledger)))


def _describe_worker(view: View) -> View:
    return describe(
        "admin",
        {200: Answer("The workers.", WorkersView)},
        error=ErrorView,
        errors=_INVALID,
        body=form_or_json(WorkerForm),
        access=ADMIN,
    )(view)


@blueprint.post("/drain")
@_describe_worker
def drain() -> Response:
    """Let a worker take no more jobs, so that it can be stopped; its current job continues."""
    return _hold_back(HoldKind.DRAIN)


@blueprint.post("/quarantine")
@_describe_worker
def quarantine() -> Response:
    """The same for a worker process whose device is faulty."""
    return _hold_back(HoldKind.QUARANTINE)


@blueprint.post("/release")
@_describe_worker
def release() -> Response:
    """Let a worker take jobs again."""
    jobs().ledger.controls.release(forms.parse(WorkerForm).worker, by=operator())
    return workers()


@blueprint.get("/audit")
@describe("admin", {200: Answer("The acts.", ActsView)}, error=ErrorView, access=ADMIN)
def audit() -> Response:
    """The latest acts of operators: who, what, when; at most 1,000 are kept."""
    return jsonify(ActsView(acts=jobs().ledger.controls.acts(200)))


def pause_views() -> list[PauseView]:
    """The pauses."""
    return [
        PauseView(what=what, model=model, since=datetime.fromtimestamp(note.at, UTC), by=note.by, reason=note.reason)
        for what, model, note in jobs().ledger.controls.pauses()
    ]


def _hold_back(kind: HoldKind) -> Response:
    form = forms.parse(WorkerForm)
    jobs().ledger.controls.hold_back(form.worker, kind, by=operator(), reason=form.reason)
    return workers()


def _owner(key_id: str | None) -> str | None:
    if not key_id:
        return key_id
    return "" if key_id == NO_KEY else keyring().owner_of(key_id)


def _view(found: Job) -> AdminJobView:
    return AdminJobView(key=found.owner, job=JobView.of(found, public_path("")))
