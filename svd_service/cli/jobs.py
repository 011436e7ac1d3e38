"""The command line's commands about jobs that there are: `status`, `list`, `cancel`, `watch`."""

import json
import threading
from collections.abc import Callable

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from svd_service.cli.display import Display, describe, display_on
from svd_service.cli.options import DEFAULT_SERVER, ApiKey, AsJson, JobId, JobIds, Server
from svd_service.client.client import Client
from svd_service.client.errors import ClientError
from svd_service.client.status import JobStatus


def status(job_id: JobId, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Say where a job stands."""
    with Client(server, api_key, patience=0) as client:
        job = client.status(job_id)
    if as_json:
        typer.echo(json.dumps(job.told))
    else:
        Console().print(_table(job))


def list_jobs(
    limit: int = typer.Option(20, "--limit", "-n", min=1, help="Most jobs to show."),
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Say where your jobs stand, newest first."""
    with Client(server, api_key, patience=0) as client:
        found = list(client.jobs(limit))
    if as_json:
        typer.echo(json.dumps([job.told for job in found]))
        return
    table = Table(box=None)
    table.add_column("job", no_wrap=True, min_width=36)  # all of an id, or it is of no use
    for name in ("created", "state"):
        table.add_column(name)
    for job in found:
        table.add_row(job.id, str(job.told.get("created_at") or "")[:19], Text(describe(job)))
    Console().print(table)


def cancel(job_ids: JobIds, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Cancel jobs: a queued one at once, a started one at its next step. One that has ended stays as it is."""
    told, failed = [], False
    with Client(server, api_key, patience=0) as client:
        for job_id in job_ids:
            try:
                job = client.cancel(job_id)
            except ClientError as error:
                typer.echo(f"{job_id}: {error}", err=True)
                failed = True
                continue
            told.append(job.told)
            if not as_json:
                typer.echo(f"{job_id}: {describe(job) if job.ended else 'is being cancelled'}")
    if as_json:
        typer.echo(json.dumps(told))
    raise typer.Exit(int(failed))


def watch(job_ids: JobIds, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Follow jobs until they have ended; with --json, every change is a line. Ctrl-C leaves them alone."""
    with Client(server, api_key) as client:
        client.health()  # nobody there? Then say so at once
        if as_json:
            ended = _follow(client, job_ids, lambda _, job: typer.echo(json.dumps(job.told)))
        else:
            with display_on(Console(stderr=True), job_ids) as display:
                ended = _follow(client, job_ids, _showing(display))
    for job_id, outcome in ended.items():
        if isinstance(outcome, ClientError):
            typer.echo(f"{job_id}: {outcome}", err=True)
        elif not as_json:
            typer.echo(f"{job_id}: {describe(outcome)}")
    well = all(isinstance(outcome, JobStatus) and outcome.state == "finished" for outcome in ended.values())
    raise typer.Exit(int(not well))


def _showing(display: Display) -> Callable[[int, JobStatus], None]:
    return lambda index, job: display.show(index, job.fraction, describe(job), ended=job.ended)


def _follow(
    client: Client, job_ids: list[str], on_status: Callable[[int, JobStatus], None]
) -> dict[str, JobStatus | ClientError]:
    """Tell `on_status` of every change; what became of each job, or of our looking at it."""
    ended: dict[str, JobStatus | ClientError] = {}

    def follow(index: int, job_id: str) -> None:
        try:
            for job in client.watch(job_id):
                on_status(index, job)
                ended[job_id] = job
        except ClientError as error:
            ended[job_id] = error

    threads = [threading.Thread(target=follow, args=job, daemon=True) for job in enumerate(job_ids)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


def _pair(key: str, value: object) -> str:
    if isinstance(value, list):  # the result's files, and the formats that were asked for
        value = " ".join(str(one["format"] if isinstance(one, dict) else one) for one in value) or "–"
    return f"{key} {value}"


def _table(job: JobStatus) -> Table:
    """What a person wants to know of a job, one thing a row."""
    table = Table(show_header=False, box=None)
    table.add_row("job", job.id)
    table.add_row("state", Text(describe(job)))
    for name in ("created_at", "started_at", "ended_at", "expires_at", "attempt"):
        if job.told.get(name):
            table.add_row(name.removesuffix("_at"), Text(str(job.told[name])))
    for name in ("model", "parameters", "result"):
        if job.told.get(name):
            told = ", ".join(_pair(key, value) for key, value in job.told[name].items() if value is not None)
            table.add_row(name, Text(told))
    return table
