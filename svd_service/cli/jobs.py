"""Commands for existing jobs: `status`, `list`, `download`, `pin`, `unpin`, `share`, `cancel`, `delete`, `watch`."""

import json
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn
from urllib.parse import urljoin

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from svd_service.cli.display import Display, describe, display_on, explained
from svd_service.cli.options import DEFAULT_SERVER, ApiKey, AsJson, JobId, JobIds, Server
from svd_service.cli.targets import target_for
from svd_service.client.client import Client
from svd_service.client.errors import ClientError, NotReadyError
from svd_service.client.status import ENDED, JobStatus
from svd_service.client.transport import word
from svd_service.parameters import Format

#: Seconds of one wait for a thread. On Windows, Ctrl-C does not interrupt a wait without a limit.
_JOIN_EVERY: Final = 0.2


def status(job_id: JobId, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show the status of a job."""
    with Client(server, api_key, patience=0) as client:
        job = client.status(job_id)
    if as_json:
        typer.echo(json.dumps(job.raw))
    else:
        Console().print(_table(job))


def list_jobs(
    limit: int = typer.Option(20, "--limit", "-n", min=1, help="Maximum number of jobs."),
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List your jobs, newest first."""
    with Client(server, api_key, patience=0) as client:
        found = list(client.jobs(limit))
    if as_json:
        typer.echo(json.dumps([job.raw for job in found]))
        return
    table = Table(box=None)
    table.add_column("job", no_wrap=True, min_width=36)  # never truncated: an id is useful only in full
    table.add_column("created", no_wrap=True, min_width=20)
    table.add_column("state", no_wrap=True, overflow="ellipsis")
    for job in found:
        table.add_row(Text(job.id), moment(job.raw.get("created_at")), Text(describe(job)))
    Console().print(table)


def download(
    job_id: JobId,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT", help="The video's file, or a folder. Default: ID.mp4 here.")
    ] = Path(),
    kind: Annotated[
        Format | None, typer.Option("--format", help="One of the job's formats. Default: what OUT ends in, else mp4.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job has ended.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Download the video of a finished job."""
    target, form = target_for(job_id, out, kind and str(kind), may_replace=True)
    with Client(server, api_key) as client:
        client.health()  # reports an unreachable service at once
        if wait:
            with display_on(Console(stderr=True), [job_id]) as display:
                _follow(client, [job_id], _showing(display))
        try:
            client.download(job_id, target, kind=form)
        except NotReadyError as error:
            if error.job_state in ENDED:
                raise
            sys.exit(f"{error}. To wait for it, add --wait.")
        except OSError as error:
            sys.exit(f"{target}: {error.strerror or error}")
    typer.echo(str(target))


def pin(job_ids: JobIds, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Keep the videos of finished jobs until they are unpinned or deleted."""
    with Client(server, api_key, patience=0) as client:
        _each(job_ids, client.pin, lambda _: "pinned")


def unpin(job_ids: JobIds, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Let pinned videos expire again; they are kept for at least ten more minutes."""
    with Client(server, api_key, patience=0) as client:
        _each(job_ids, client.unpin, lambda _: "no longer pinned")


def _each(
    job_ids: list[str],
    action: Callable[[str], JobStatus],
    describe_done: Callable[[JobStatus], str],
    *,
    as_json: bool = False,
) -> NoReturn:
    """Call `action` for each job, print what was done or the error, and exit with 1 if there was an error.

    With `as_json`, the jobs without an error are printed as a JSON list instead.
    """
    done, failed = [], False
    for job_id in job_ids:
        try:
            job = action(job_id)
        except ClientError as error:
            typer.echo(f"{job_id}: {explained(error)}", err=True)
            failed = True
            continue
        done.append(job.raw)
        if not as_json:
            typer.echo(f"{job_id}: {describe_done(job)}")
    if as_json:
        typer.echo(json.dumps(done))
    raise typer.Exit(int(failed))


def share(
    job_id: JobId,
    expires_in: Annotated[
        int | None, typer.Option(min=1, metavar="SECONDS", help="Lifetime of the link. Default: the service's.")
    ] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Print a link to a finished job's video that works without an API key, until it expires."""
    with Client(server, api_key, patience=0) as client:
        path = f"/jobs/{word(job_id)}/share"
        url, until = client.call("POST", path, parse=_link, expires_in=expires_in)
    typer.echo(urljoin(f"{client.base_url}/", url))
    typer.echo(f"It works until {until}.", err=True)


def _link(answer: dict[str, Any]) -> tuple[str, str]:
    return str(answer["url"]), moment(answer["expires_at"])


def delete(
    job_ids: JobIds,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Delete ended jobs and their videos for good. One that has not ended is left alone: cancel it first."""
    if not yes:
        typer.confirm(f"Delete {len(job_ids)} jobs and their videos for good?", abort=True)
    with Client(server, api_key, patience=0) as client:

        def remove(job_id: str) -> JobStatus:
            job = client.status(job_id)
            if job.state not in ENDED:
                raise ClientError(f"is {job.state}; cancel it first")
            client.delete(job_id)
            return job

        _each(job_ids, remove, lambda _: "deleted")


def cancel(job_ids: JobIds, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Cancel jobs: a queued one at once, a started one at its next step. One that has ended stays as it is."""
    with Client(server, api_key, patience=0) as client:
        _each(
            job_ids,
            client.cancel,
            lambda job: describe(job) if job.ended else "being cancelled",
            as_json=as_json,
        )


def watch(job_ids: JobIds, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Follow jobs until they have ended; with --json, every change is a line. Ctrl-C leaves them alone."""
    with Client(server, api_key) as client:
        client.health()  # reports an unreachable service at once
        if as_json:
            ended = _follow(client, job_ids, lambda _, job: typer.echo(json.dumps(job.raw)))
        else:
            with display_on(Console(stderr=True), job_ids) as display:
                ended = _follow(client, job_ids, _showing(display))
    for job_id, outcome in ended.items():
        if isinstance(outcome, ClientError):
            typer.echo(f"{job_id}: {explained(outcome)}", err=True)
        elif not as_json:
            typer.echo(f"{job_id}: {describe(outcome)}")
    well = all(isinstance(outcome, JobStatus) and outcome.state == "finished" for outcome in ended.values())
    raise typer.Exit(int(not well))


def _showing(display: Display) -> Callable[[int, JobStatus], None]:
    return lambda index, job: display.show(index, job.fraction, describe(job), ended=job.ended)


def _follow(
    client: Client, job_ids: list[str], on_status: Callable[[int, JobStatus], None]
) -> dict[str, JobStatus | ClientError]:
    """Call `on_status` with every change; returns the last status or the error of each job.

    Raises:
        Exception: the first that `on_status` raised, such as an `OSError` of a full disk.
    """
    ended: dict[str, JobStatus | ClientError] = {}
    raised: list[Exception] = []

    def follow(index: int, job_id: str) -> None:
        try:
            for job in client.watch(job_id):
                on_status(index, job)
                ended[job_id] = job
        except ClientError as error:
            ended[job_id] = error
        except Exception as error:  # noqa: BLE001 - raised again by the thread that waits
            raised.append(error)

    threads = [threading.Thread(target=follow, args=job, daemon=True) for job in enumerate(job_ids)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive() and not raised:
            thread.join(_JOIN_EVERY)
    if raised:
        raise raised[0]
    return ended


def moment(value: object) -> str:
    """Format a time of the service (ISO 8601) as local time with its zone; empty if there is none."""
    return datetime.fromisoformat(str(value)).astimezone().strftime("%Y-%m-%d %H:%M %Z") if value else ""


def _pair(key: str, value: object) -> str:
    if isinstance(value, list):  # the result's files, and the requested formats
        value = " ".join(str(one["format"] if isinstance(one, dict) else one) for one in value) or "–"
    return f"{key} {value}"


def _table(job: JobStatus) -> Table:
    """Build a table of a job's status, one field per row."""
    table = Table(show_header=False, box=None)
    table.add_row("job", Text(job.id))
    table.add_row("state", Text(describe(job)))
    for name in ("created_at", "started_at", "ended_at", "expires_at", "attempt"):
        if job.raw.get(name):
            value = job.raw[name]
            table.add_row(name.removesuffix("_at"), Text(moment(value) if name.endswith("_at") else str(value)))
    for name in ("model", "parameters", "result"):
        if job.raw.get(name):
            text = ", ".join(_pair(key, value) for key, value in job.raw[name].items() if value is not None)
            table.add_row(name, Text(text))
    return table
