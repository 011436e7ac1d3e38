"""`GET /usage`: the usage of the caller's key."""

from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Final, Literal

from flask import Blueprint, Response, jsonify
from msgspec import Meta, Struct, field

from svd_service.api.http import forms
from svd_service.api.http.context import jobs, owner
from svd_service.api.http.openapi import Answer, describe
from svd_service.api.native.schema import ErrorView
from svd_service.errors import InvalidParameterError
from svd_service.jobs.usage import GROUPS, Usage, as_csv, grouped, total
from svd_service.ledger.usage import KEPT_DAYS

blueprint = Blueprint("usage", __name__)

#: Number of days that a query without `from` covers.
DEFAULT_DAYS: Final = 30

CSV: Final = "text/csv"


class UsageQuery(Struct, kw_only=True, forbid_unknown_fields=True):
    """Which days, and how their usage is grouped."""

    first: Annotated[
        date | None, Meta(description=f"First day (UTC). Default: {DEFAULT_DAYS} days, `to` included.")
    ] = field(name="from", default=None)
    last: Annotated[date | None, Meta(description="Last day (UTC). Default: today.")] = field(name="to", default=None)
    group: Annotated[Literal["day", "model"], Meta(description="A row for each day or for each model.")] = "day"
    format: Annotated[Literal["json", "csv"], Meta(description="Format of the response.")] = "json"

    def days(self) -> tuple[date, date]:
        """The first and the last day.

        Raises:
            InvalidParameterError: the last comes before the first, or there are too many days.
        """
        last = self.last or datetime.now(UTC).date()
        first = self.first or last - timedelta(min(DEFAULT_DAYS - 1, (last - date.min).days))
        if not 0 <= (last - first).days <= KEPT_DAYS:
            raise InvalidParameterError("from", f"from must be 0 to {KEPT_DAYS} days before to; got {first} and {last}")
        return first, last


class AmountsView(Struct, kw_only=True):
    """Amounts of usage."""

    submitted: Annotated[int, Meta(description="Accepted jobs.")]
    finished: int
    cached: Annotated[int, Meta(description="Finished jobs whose video is a copy of an earlier job's.")]
    failed: int
    cancelled: int
    device_seconds: Annotated[float, Meta(description="Device time of attempts with a video, or cancelled.")]
    failed_device_seconds: Annotated[float, Meta(description="Device time of all other attempts.")]
    frames: Annotated[int, Meta(description="Frames of the videos made.")]
    bytes: Annotated[int, Meta(description="Bytes of the videos made, in all formats.")]


class UsageRow(AmountsView, kw_only=True):
    """The usage of a group: a day or a model. Days and models without usage have no row."""

    group: str


class UsageView(Struct, kw_only=True):
    """The usage of a key from one day to another (UTC, inclusive)."""

    first: date = field(name="from")
    last: date = field(name="to")
    group: str
    usage: list[UsageRow]
    total: AmountsView


@blueprint.get("/usage")
@describe(
    "native",
    {200: Answer("The usage.", UsageView, alternatives={CSV: str})},
    error=ErrorView,
    errors={422: "A query parameter is invalid."},
    query=UsageQuery,
)
def usage() -> Response:
    """The usage of the caller's key by day or by model: jobs, device time, frames and bytes, of the last 400 days."""
    query = forms.parse_query(UsageQuery)
    first, last = query.days()
    records = jobs().ledger.usage.of(owner(), first, last)
    sums = grouped(records, GROUPS[query.group])
    if query.format == "csv":
        return Response(as_csv(query.group, sums), content_type=f"{CSV}; charset=utf-8")
    rows = [UsageRow(group=name, **asdict(amounts)) for name, amounts in sums.items()]
    amounts = _amounts(total(records))
    return jsonify(UsageView(first=first, last=last, group=query.group, usage=rows, total=amounts))


def _amounts(amounts: Usage) -> AmountsView:
    return AmountsView(**asdict(amounts))
