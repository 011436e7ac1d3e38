"""`svd-service check-ledger`: find and repair damage in Redis."""

import typer

from svd_service.cli.up.preflight import StackError
from svd_service.cli.up.processes import with_running_redis
from svd_service.config import ConfigurationError, Settings, settings
from svd_service.errors import UnavailableError
from svd_service.ledger.check import check, require_schema
from svd_service.ledger.connection import connect


def run() -> int:
    """Check, and print the findings; returns 1 if one requires manual repair."""
    try:
        configuration: Settings = with_running_redis(settings())
        with connect(configuration, timeout=10.0) as client:
            require_schema(client, configuration)
            findings = check(client, configuration)
    except (ConfigurationError, StackError, UnavailableError) as error:
        typer.echo(f"svd-service check-ledger: {error}", err=True)
        return 1
    for repaired in findings.repaired:
        typer.echo(f"repaired: {repaired}")
    for problem in findings.problems:
        typer.echo(f"problem: {problem}")
    if not findings.repaired and not findings.problems:
        typer.echo("The ledger is in order.")
    return 1 if findings.problems else 0
