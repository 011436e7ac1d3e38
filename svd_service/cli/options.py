"""Command line options that several commands share."""

from collections.abc import Callable, Collection
from inspect import Parameter as SignatureParameter
from inspect import Signature, signature
from typing import Annotated, Final

import typer

from svd_service.parameters import TABLE, Parameter

DEFAULT_SERVER: Final = "http://127.0.0.1:8000"

Server = Annotated[
    str, typer.Option("--server", envvar="SVD_SERVER", metavar="URL", help="Address of the service.", show_default=True)
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", envvar="SVD_API_KEY", metavar="KEY", help="API key, if the service requires one."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
JobId = Annotated[str, typer.Argument(metavar="ID", show_default=False)]
JobIds = Annotated[list[str], typer.Argument(metavar="ID...", show_default=False)]


def takes_parameters(
    *, without: Collection[str] = (), after: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add an option for each parameter of the table to the decorated command, after the option `after`.

    The command gets the values as keywords, `None` for an omitted option. The service validates them, since their
    limits depend on the model.
    """
    options = [_option(row) for row in TABLE.values() if row.name not in without]

    def extend(command: Callable[..., None]) -> Callable[..., None]:
        own = [each for each in signature(command).parameters.values() if each.kind is not each.VAR_KEYWORD]
        place = [each.name for each in own].index(after) + 1
        # Typer reads the signature. Everything is keyword-only, so that options without defaults need no order.
        named = [each.replace(kind=each.KEYWORD_ONLY) for each in (*own[:place], *options, *own[place:])]
        command.__signature__ = Signature(named)  # type: ignore[attr-defined]
        return command

    return extend


def _option(row: Parameter) -> SignatureParameter:
    option = typer.Option(help=row.spec.description.replace("`", ""))
    return SignatureParameter(
        row.name, SignatureParameter.KEYWORD_ONLY, default=None, annotation=Annotated[row.kind | None, option]
    )
