"""`GET /admin/overview`: queues, keys, failures and the history, for the operators' page."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from flask import Blueprint, Response, jsonify

from svd_service.api.admin.routes import pause_views
from svd_service.api.admin.schema import OverviewView, PeriodView, QueueView
from svd_service.api.http.context import jobs
from svd_service.api.http.openapi import ADMIN, Answer, describe
from svd_service.api.native.schema import ErrorView
from svd_service.ledger.controls import PERIOD

blueprint = Blueprint("overview", __name__, url_prefix="/admin")

#: Number of periods in a day.
DAY: Final = 86_400 // PERIOD

_FAILED: Final = "failed|"


@blueprint.get("/overview")
@describe("admin", {200: Answer("The overview.", OverviewView)}, error=ErrorView, access=ADMIN)
def overview() -> Response:
    """The service at a glance: jobs by state, queues, queued jobs by key, and ends and queue age of the last day."""
    ledger = jobs().ledger
    figures = ledger.stats.figures()
    history = [_period(begin, amounts) for begin, amounts in ledger.controls.history(DAY)]
    failures: Counter[str] = Counter()
    for period in history:
        failures.update(period.failed)
    return jsonify(
        OverviewView(
            states=figures.jobs,
            queues=[
                QueueView(
                    model=model, profile=profile, length=each.length, oldest=each.oldest, wait=each.predicted_wait
                )
                for (model, profile), each in sorted(figures.queues.items())
            ],
            queued_by_key=ledger.stats.queued_by_owner(),
            paused=pause_views(),
            failures=dict(failures.most_common()),
            history=history,
        )
    )


def _period(begin: float, amounts: Mapping[str, float]) -> PeriodView:
    return PeriodView(
        begin=datetime.fromtimestamp(begin, UTC),
        finished=int(amounts.get("finished", 0)),
        failed={name.removeprefix(_FAILED): int(n) for name, n in amounts.items() if name.startswith(_FAILED)},
        queue_age=amounts.get("queue_age"),
    )
