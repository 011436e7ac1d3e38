"""`svd-service admin`: what operators do, over HTTP with a key of the scope `admin`."""

import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

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
    found: list[dict[str, Any]] = []
    after = ""
    with Client(server, api_key, patience=0) as client:
        while len(found) < limit:
            query = {"key": key, "state": state, "model": model, "after": after, "limit": min(limit, _PAGE)}
            page = client.call("GET", "/admin/jobs", **query)
            found += page["jobs"]
            if not page["next"]:
                break
            after = page["next"].partition("after=")[2].partition("&")[0]
    found = found[:limit]
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table("job", "key", "created", "state", "model", box=None)
    for each in found:
        job = each["job"]
        state = f"{job['status']} {job['error']['code'] if job['error'] else ''}".strip()
        table.add_row(job["task_id"], each["key"] or "-", moment(job["created_at"]), state, job["model"]["name"])
    _print(table)


@app.command()
def cancel(job_ids: JobIds, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Cancel jobs of any key."""
    with Client(server, api_key, patience=0) as client:
        for job_id in job_ids:
            job = client.call("POST", f"/admin/jobs/{quote(job_id, safe='')}/cancel")["job"]
            typer.echo(f"{job_id}: {'being cancelled' if job['status'] == 'started' else job['status']}")


@app.command()
def retry(job_id: JobId, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Submit a failed job again, as a new job of its key, while its image is stored (SVD_KEEP_INPUTS)."""
    with Client(server, api_key, patience=0) as client:
        typer.echo(client.call("POST", f"/admin/jobs/{quote(job_id, safe='')}/retry")["job"]["task_id"])


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
            client.call("DELETE", f"/admin/jobs/{quote(job_id, safe='')}")
            typer.echo(f"{job_id}: deleted")


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
            answer = client.call("POST", "/admin/purge", **query)
            deleted += answer["deleted"]
            more = answer["more"] and answer["deleted"] > 0
    typer.echo(f"Deleted {deleted} jobs.")


@app.command()
def pause(
    what: What, model: Model = "", reason: Reason = "", server: Server = DEFAULT_SERVER, api_key: ApiKey = None
) -> None:
    """Pause the intake (submissions get 503) or the dispatch (queued jobs do not start) until it is resumed."""
    with Client(server, api_key, patience=0) as client:
        _print_pauses(client.call("POST", "/admin/pause", what=what, model=model, reason=reason))


@app.command()
def resume(what: What, model: Model = "", server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """End a pause."""
    with Client(server, api_key, patience=0) as client:
        _print_pauses(client.call("POST", "/admin/resume", what=what, model=model))


@app.command()
def workers(server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the worker processes with their devices and current jobs."""
    with Client(server, api_key, patience=0) as client:
        found = client.call("GET", "/admin/workers")
    _print_workers(found, as_json=as_json)


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
        acts = client.call("GET", "/admin/audit")["acts"]
    if as_json:
        typer.echo(json.dumps(acts))
        return
    table = Table("when", "who", "what", "target", "reason", box=None)
    for act in acts:
        when = moment(datetime.fromtimestamp(act["at"], UTC).isoformat())
        table.add_row(when, act["by"], act["what"], act["target"], act["reason"])
    _print(table)


def _act(name: str, server: str, api_key: str | None, **form: str) -> None:
    with Client(server, api_key, patience=0) as client:
        _print_workers(client.call("POST", f"/admin/{name}", **form), as_json=False)


def _print_workers(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found["workers"]))
        return
    table = Table("worker", "state", "device", "model", "job", "reason", box=None)
    for each in found["workers"]:
        table.add_row(*(str(each[name] or "") for name in ("worker", "state", "device", "model", "job", "reason")))
    _print(table)


def _print_pauses(found: dict[str, Any]) -> None:
    for each in found["paused"]:
        reason = f": {each['reason']}" if each["reason"] else ""
        typer.echo(f"{each['what']} of {each['model'] or 'all models'} is paused by {each['by']}{reason}")
    if not found["paused"]:
        typer.echo("Nothing is paused.")


def _print(table: Table) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 240  # do not wrap what another program reads
    console.print(table)
