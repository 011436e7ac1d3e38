"""`svd-service models`: the models that a service offers."""

import json

import typer
from rich.console import Console
from rich.table import Table

from svd_service.cli.options import DEFAULT_SERVER, ApiKey, AsJson, Server
from svd_service.client.client import Client

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Show the models that the service offers.")


@app.callback(invoke_without_command=True)
def show(
    context: typer.Context, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Show the models that the service offers, the default first."""
    if context.invoked_subcommand:
        return
    with Client(server, api_key, patience=0) as client:
        found = client.models()
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table("model", "size", "frames", "profiles", box=None)
    for model in found:
        defaults = model["defaults"]
        size = f"{defaults['width']}x{defaults['height']}"
        table.add_row(model["name"], size, str(defaults["num_frames"]), ", ".join(model["profiles"]))
    Console(highlight=False, markup=False).print(table)
