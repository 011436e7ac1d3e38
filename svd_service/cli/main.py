"""The `svd-service` command: the client's commands, and those that run the service.

The latter import the server when they are called, so that the client installs and starts without its packages.
"""

import io
import sys
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from svd_service import __version__
from svd_service.cli import admin, generate, jobs, models, verify
from svd_service.cli.display import explained
from svd_service.client.errors import ClientError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # no boxes: they would wrap paths and addresses
    help="Generate short videos from images: Stable Video Diffusion as a service.",
)
app.command()(generate.generate)
app.command()(jobs.status)
app.command("list")(jobs.list_jobs)
app.command()(jobs.download)
app.command()(jobs.pin)
app.command()(jobs.unpin)
app.command()(jobs.share)
app.command()(jobs.cancel)
app.command()(jobs.delete)
app.command()(jobs.watch)
app.command()(verify.verify)
app.add_typer(models.app, name="models")
app.add_typer(admin.app, name="admin")


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"svd-service {__version__}")
        raise typer.Exit


@app.callback()
def program(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Generate short videos from images: Stable Video Diffusion as a service."""


@app.command()
def up(
    flower: Annotated[bool, typer.Option("--flower", help="Start Flower as well.")] = False,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the HTTP API.")] = None,
) -> None:
    """Start everything on this machine: Redis, the worker, the webhook worker, the HTTP API and the exporter."""
    try:
        from svd_service.cli import up as stack  # noqa: PLC0415
    except ModuleNotFoundError as error:
        _missing(error, "local")
    raise typer.Exit(stack.up(flower=flower, port=port))


@app.command()
def doctor() -> None:
    """Check this machine and the settings; print problems and their remedies."""
    try:
        from svd_service.cli import doctor as checks  # noqa: PLC0415
    except ModuleNotFoundError as error:
        _missing(error, "api")
    raise typer.Exit(checks.run(Console()))


@app.command("check-ledger")
def check_ledger() -> None:
    """Check the jobs in Redis, repair damage, and list what requires manual repair."""
    try:
        from svd_service.cli import ledger as checks  # noqa: PLC0415
    except ModuleNotFoundError as error:
        _missing(error, "api")
    raise typer.Exit(checks.run())


@app.command()
def exporter() -> None:
    """Serve the workers' metrics to Prometheus."""
    try:
        from svd_service.telemetry import exporter as prometheus  # noqa: PLC0415
    except ModuleNotFoundError as error:
        _missing(error, "api")
    prometheus.main()


@app.command()
def flower() -> None:
    """Start Flower on SVD_FLOWER_BIND, with SVD_FLOWER_BASIC_AUTH or else a new password."""
    try:
        from svd_service.cli import flower as program  # noqa: PLC0415
    except ModuleNotFoundError as error:
        _missing(error, "monitoring")
    program.main()


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def keys(context: typer.Context) -> None:
    """Create, list and revoke API keys: `svd-service keys --help`."""
    try:
        from svd_service.cli import keys as commands_of_keys  # noqa: PLC0415
    except ModuleNotFoundError as error:
        _missing(error, "api")
    commands_of_keys.run(context.args)


def main() -> None:
    """Entry point: an error of the client is printed as one sentence, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        # In a locale without UTF-8, printing a message must not fail and abort the cleanup.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app()
    except ClientError as error:
        sys.exit(explained(error))


def _missing(error: ModuleNotFoundError, extra: str) -> NoReturn:
    if error.name is None or error.name.startswith("svd_service"):
        raise error
    sys.exit(f"This needs the package {error.name}, which is not installed: pip install 'svd-service[{extra}]'")
