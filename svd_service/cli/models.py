"""`svd-service models`: the models that a service offers, and the weights on this machine."""

import importlib.util
import json
import subprocess
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from svd_service.cli.options import DEFAULT_SERVER, ApiKey, AsJson, Server
from svd_service.client.client import Client

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="Show the models that the service offers; download weights before the first start.",
)


@app.callback(invoke_without_command=True)
def offered(
    context: typer.Context, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Show the models that the service offers, the default first."""
    if context.invoked_subcommand:
        return
    with Client(server, api_key, patience=0) as client:
        found = client.call("GET", "/models", parse=lambda answer: [(each, _row(each)) for each in answer["models"]])
    if as_json:
        typer.echo(json.dumps([model for model, _ in found]))
        return
    table = Table("model", "size", "frames", "profiles", box=None)
    for _, row in found:
        table.add_row(*row)
    Console(highlight=False, markup=False, emoji=False).print(table)


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    defaults = model["defaults"]
    size = f"{defaults['width']}x{defaults['height']}"
    return str(model["name"]), size, str(defaults["num_frames"]), ", ".join(model["profiles"])


@app.command()
def pull(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="Hub id. Default: SVD_MODEL.")] = "",
) -> None:
    """Download a model's weights into this machine's cache, so that a worker's first start is short."""
    missing = [name for name in ("torch", "diffusers") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"This needs {', '.join(missing)}, not installed: pip install 'svd-service[local]'")
    # In a separate process: this one must not import torch, as the client installs without it.
    command = [sys.executable, "-m", "svd_service.video.pull", *([model] if model else [])]
    raise typer.Exit(subprocess.run(command, check=False).returncode)  # noqa: S603 - our own module


@app.command(name="list")
def list_cached() -> None:
    """List the hub models in this machine's cache, with their size."""
    try:
        from huggingface_hub import scan_cache_dir  # noqa: PLC0415
        from huggingface_hub.errors import CacheNotFound  # noqa: PLC0415
    except ModuleNotFoundError as error:
        sys.exit(f"This needs the package {error.name}, which is not installed: pip install 'svd-service[local]'")
    try:
        found = [repo for repo in scan_cache_dir().repos if repo.repo_type == "model"]
    except CacheNotFound:
        found = []
    if not found:
        typer.echo("No model is in this machine's cache: `svd-service models pull` fetches one.")
    for repo in sorted(found, key=lambda each: each.repo_id):
        typer.echo(f"{repo.repo_id}  {repo.size_on_disk_str}")
