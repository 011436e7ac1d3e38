"""The command `verify`: where a file comes from, by its Content Credentials."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from svd_service.cli.options import DEFAULT_SERVER, ApiKey, AsJson, Server
from svd_service.client.client import Client
from svd_service.client.errors import RejectedError

#: Verdicts that rest on valid credentials.
_MARKED: Final = frozenset({"made_here", "made_elsewhere"})

#: Rows of the table, and the fields of the statement that they show.
_ROWS: Final = {
    "signer": "signer",
    "generator": "generator",
    "model": "model",
    "created": "created_at",
    "source type": "digital_source_type",
}


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    local: Annotated[
        bool,
        typer.Option(
            "--local",
            help="Read it on this machine, without a service and of any size (extra c2pa). Only files signed with this "
            "machine's certificate count as made here.",
        ),
    ] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether the service made a file, somebody else did, or it is unmarked or changed.

    The exit status is 0 if its Content Credentials are valid, 1 if they are invalid or there are none.
    """
    try:
        found = _read(file) if local else _ask(file, server, api_key)
    except OSError as error:
        sys.exit(f"{file}: {error.strerror or error}")
    if as_json:
        typer.echo(json.dumps(found))
    else:
        _show(found)
    raise typer.Exit(int(found["verdict"] not in _MARKED))


def _ask(file: Path, server: str, api_key: str | None) -> dict[str, Any]:
    with Client(server, api_key, patience=0) as client:
        try:
            return client.verify(file)
        except RejectedError as error:
            if error.code == "image_too_large":
                sys.exit(f"{file}: {error}. To read it on this machine, add --local.")
            raise


def _read(path: Path) -> dict[str, Any]:
    """Read the file here; the answer has the shape of the service's."""
    try:
        import msgspec  # noqa: PLC0415

        from svd_service.config import ConfigurationError, settings  # noqa: PLC0415
        from svd_service.marking import chain, reader  # noqa: PLC0415
        from svd_service.marking.findings import explain, verdict_of  # noqa: PLC0415

        reader.load()
    except ModuleNotFoundError as error:
        sys.exit(f"--local needs the package {error.name}: pip install 'svd-service[c2pa]'")
    try:
        own = chain.of_host(settings())
    except ConfigurationError as error:
        sys.exit(str(error))
    with path.open("rb") as file:
        found = reader.read(file, own.signer.decode() if own else "")
    answer = {"verdict": verdict_of(found), "message": explain(found), "credentials": found, "job": None}
    shown: dict[str, Any] = msgspec.to_builtins(answer)
    return shown


def _show(found: dict[str, Any]) -> None:
    console = Console(highlight=False)
    console.print(Text(f"{found['verdict'].replace('_', ' ')}: {found['message']}"), soft_wrap=True)
    table = Table(show_header=False, box=None)
    credentials = found["credentials"] or {"statement": {}, "ingredients": []}
    for name, field in _ROWS.items():
        if credentials["statement"].get(field):
            table.add_row(name, Text(credentials["statement"][field]))
    if credentials.get("job_id"):
        table.add_row("job", Text(credentials["job_id"]))
    if credentials.get("problems"):
        table.add_row("problems", Text(", ".join(credentials["problems"])))
    for ingredient in credentials["ingredients"]:
        table.add_row("made from", Text(_shown(ingredient)))
    if table.row_count:
        console.print(table)


def _shown(ingredient: dict[str, Any]) -> str:
    manifest = ingredient["manifest"]
    name = ingredient["title"] or "a file"
    return f"{name}, signed by {manifest['signer'] or 'an unnamed signer'}" if manifest else f"{name}, unmarked"
