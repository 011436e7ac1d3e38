"""`svd-service admin`: what operators do, over HTTP with a key of the scope `admin`."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, TypeAlias
from urllib.parse import quote

import typer
from rich.table import Table

from svd_service.cli.display import print_table
from svd_service.cli.jobs import moment
from svd_service.cli.options import DEFAULT_SERVER, ApiKey, AsJson, JobId, JobIds, Server
from svd_service.client.client import Client

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Operate the service: all keys' jobs, pauses, workers. Requires a key made with `keys create NAME --admin`.",
)


class Pausable(StrEnum):
    """What can be paused."""

    INTAKE = "intake"
    DISPATCH = "dispatch"


class Ended(StrEnum):
    """States of jobs that can be purged."""

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


What = Annotated[Pausable, typer.Argument(show_default=False)]
Model = Annotated[str, typer.Option("--model", help="A model; without it, all.", show_default=False)]
Reason = Annotated[str, typer.Option("--reason", help="Why; shown to everybody.", show_default=False)]
Worker = Annotated[str, typer.Argument(metavar="WORKER", show_default=False)]
OfKey = Annotated[str, typer.Option("--key", metavar="ID", help="Id of their owner; `-`: no key.", show_default=False)]

#: Columns of the table of workers, and the fields that they show.
_WORKER: Final = ("worker", "state", "device", "model", "job", "reason")

#: A row of a table.
_Row: TypeAlias = tuple[str, ...]

#: Maximum number of jobs that one request returns.
_PAGE: Final = 200


@app.command("jobs")
def list_jobs(
    key: OfKey = "",
    state: Annotated[str, typer.Option(help="queued, started, finished, failed, cancelled or expired.")] = "",
    model: Model = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Maximum number of jobs.")] = 20,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List the jobs of all keys, newest first."""
    found: list[tuple[dict[str, Any], _Row]] = []
    after = ""
    with Client(server, api_key, patience=0) as client:
        while len(found) < limit:
            query = {"key": key, "state": state, "model": model, "after": after, "limit": min(limit, _PAGE)}
            page, after = client.call("GET", "/admin/jobs", parse=_page, **query)
            found += page
            if not after:
                break
    _print_found(found[:limit], ("job", "key", "created", "state", "model"), as_json=as_json)


def _page(answer: dict[str, Any]) -> tuple[list[tuple[dict[str, Any], _Row]], str]:
    """Return the jobs of a page of the list with their rows of the table, and where the next page begins."""
    jobs = [(each, _row(each["job"], each["key"])) for each in answer["jobs"]]
    return jobs, (answer["next"] or "").partition("after=")[2].partition("&")[0]


def _row(job: dict[str, Any], key: str | None) -> _Row:
    state = f"{job['status']} {job['error']['code'] if job['error'] else ''}".strip()
    return str(job["task_id"]), key or "-", moment(job["created_at"]), state, str(job["model"]["name"])


@app.command()
def cancel(job_ids: JobIds, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Cancel jobs of any key."""
    with Client(server, api_key, patience=0) as client:
        for job_id in job_ids:
            path = f"/admin/jobs/{quote(job_id, safe='')}/cancel"
            state = client.call("POST", path, parse=lambda answer: answer["job"]["status"])
            typer.echo(f"{job_id}: {'being cancelled' if state == 'started' else state}")


@app.command()
def retry(job_id: JobId, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Submit a failed job again, as a new job of its key, while its image is stored (SVD_KEEP_INPUTS)."""
    with Client(server, api_key, patience=0) as client:
        path = f"/admin/jobs/{quote(job_id, safe='')}/retry"
        typer.echo(client.call("POST", path, parse=lambda answer: answer["job"]["task_id"]))


@app.command()
def delete(
    job_ids: JobIds,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Delete jobs of any key and their videos, whatever their state."""
    if not yes:
        typer.confirm(f"Delete {len(job_ids)} jobs and their videos for good?", abort=True)
    with Client(server, api_key, patience=0) as client:
        for job_id in job_ids:
            client.call("DELETE", f"/admin/jobs/{quote(job_id, safe='')}", parse=_require_nothing)
            typer.echo(f"{job_id}: deleted")


def _require_nothing(answer: object) -> None:
    if answer is not None:
        raise ValueError("expected an empty response")


@app.command()
def purge(
    state: Annotated[Ended, typer.Argument(show_default=False)],
    key: OfKey = "",
    model: Model = "",
    older_than: Annotated[float, typer.Option(metavar="HOURS", min=0, help="Minimum age in hours.")] = 0.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Delete all ended jobs of a state, with their videos."""
    if not yes:
        typer.confirm(f"Delete all {state} jobs{f' of {key}' if key else ''} for good?", abort=True)
    deleted, more = 0, True
    with Client(server, api_key, patience=0) as client:
        while more:
            query = {"state": state, "key": key, "model": model, "older_than": 3600 * older_than}
            number, more = client.call("POST", "/admin/purge", parse=_purged, **query)
            deleted += number
    typer.echo(f"Deleted {deleted} jobs.")


def _purged(answer: dict[str, Any]) -> tuple[int, bool]:
    """Return the number of deleted jobs, and whether another request can delete more."""
    number = int(answer["deleted"])
    return number, bool(answer["more"]) and number > 0


@app.command()
def pause(
    what: What, model: Model = "", reason: Reason = "", server: Server = DEFAULT_SERVER, api_key: ApiKey = None
) -> None:
    """Pause the intake (submissions get 503) or the dispatch (queued jobs do not start) until it is resumed."""
    with Client(server, api_key, patience=0) as client:
        typer.echo(client.call("POST", "/admin/pause", parse=_pauses, what=what, model=model, reason=reason))


@app.command()
def resume(what: What, model: Model = "", server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """End a pause."""
    with Client(server, api_key, patience=0) as client:
        typer.echo(client.call("POST", "/admin/resume", parse=_pauses, what=what, model=model))


@app.command()
def workers(server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the worker processes with their devices and current jobs."""
    with Client(server, api_key, patience=0) as client:
        found = client.call("GET", "/admin/workers", parse=_workers)
    _print_found(found, _WORKER, as_json=as_json)


@app.command()
def drain(worker: Worker, reason: Reason = "", server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Let a worker process, or a node with all its processes, take no more jobs; its current job continues."""
    _act("drain", server, api_key, worker=worker, reason=reason)


@app.command()
def quarantine(worker: Worker, reason: Reason = "", server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """The same for a worker process whose device is faulty."""
    _act("quarantine", server, api_key, worker=worker, reason=reason)


@app.command()
def release(worker: Worker, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Let a worker take jobs again."""
    _act("release", server, api_key, worker=worker)


@app.command()
def audit(server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the latest acts of operators: who, what, when."""
    with Client(server, api_key, patience=0) as client:
        found = client.call(
            "GET", "/admin/audit", parse=lambda answer: [(act, _act_row(act)) for act in answer["acts"]]
        )
    _print_found(found, ("when", "who", "what", "target", "reason"), as_json=as_json)


def _act_row(act: dict[str, Any]) -> _Row:
    when = moment(datetime.fromtimestamp(act["at"], UTC).isoformat())
    return when, *(str(act[name]) for name in ("by", "what", "target", "reason"))


def _act(name: str, server: str, api_key: str | None, **form: str) -> None:
    with Client(server, api_key, patience=0) as client:
        _print_found(client.call("POST", f"/admin/{name}", parse=_workers, **form), _WORKER, as_json=False)


def _workers(answer: dict[str, Any]) -> list[tuple[dict[str, Any], _Row]]:
    """Return the workers with their rows of the table."""
    return [(each, tuple(str(each[name] or "") for name in _WORKER)) for each in answer["workers"]]


def _pauses(answer: dict[str, Any]) -> str:
    """Describe the pauses, one a line."""
    lines = []
    for each in answer["paused"]:
        reason = f": {each['reason']}" if each["reason"] else ""
        lines.append(f"{each['what']} of {each['model'] or 'all models'} is paused by {each['by']}{reason}")
    return "\n".join(lines) or "Nothing is paused."


def _print_found(found: list[tuple[dict[str, Any], _Row]], headings: Sequence[str], *, as_json: bool) -> None:
    """Print what the service lists: as JSON, or as a table of its rows."""
    if as_json:
        typer.echo(json.dumps([each for each, _ in found]))
        return
    table = Table(*headings, box=None)
    for _, row in found:
        table.add_row(*row)
    print_table(table)
