"""Options that several of the command line's commands have."""

from typing import Annotated, Final

import typer

DEFAULT_SERVER: Final = "http://127.0.0.1:8000"

Server = Annotated[
    str, typer.Option("--server", envvar="SVD_SERVER", metavar="URL", help="Address of the service.", show_default=True)
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", envvar="SVD_API_KEY", metavar="KEY", help="Your key, where the service wants one."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON, on standard output.")]
JobId = Annotated[str, typer.Argument(metavar="ID", show_default=False)]
JobIds = Annotated[list[str], typer.Argument(metavar="ID...", show_default=False)]
