import csv
from datetime import UTC, date, datetime, timedelta

import pytest

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def today() -> date:
    return datetime.now(UTC).date()


def test_usage_is_shown_by_day_and_by_model(http, submit, finish, today):
    finish(submit())
    http.delete(f"/jobs/{submit()}")
    shown = http.get("/usage").json
    row = {
        "submitted": 2,
        "finished": 1,
        "cached": 0,
        "failed": 0,
        "cancelled": 1,
        "device_seconds": 1.0,
        "failed_device_seconds": 0.0,
        "frames": 8,
        "bytes": 2048,
    }
    assert shown == {
        "from": str(today - timedelta(29)),
        "to": str(today),
        "group": "day",
        "usage": [{"group": str(today), **row}],
        "total": row,
    }
    by_model = http.get("/usage?group=model").json
    assert [each["group"] for each in by_model["usage"]] == ["nano"]
    before = http.get(f"/usage?from={today - timedelta(400)}&to={today - timedelta(1)}").json
    assert (before["usage"], before["total"]["submitted"]) == ([], 0)


def test_usage_as_csv(http, submit, today):
    submit()
    answer = http.get("/usage?format=csv")
    assert answer.mimetype == "text/csv"
    (row,) = csv.DictReader(answer.text.splitlines())
    assert (row["day"], row["submitted"], row["device_seconds"]) == (str(today), "1", "0.0")


def test_a_key_sees_only_its_own_usage(http, app, submit):
    submit()  # before the first key
    _, secret = app.extensions["web"].keyring.create("ann")
    shown = http.get("/usage", headers={"Authorization": f"Bearer {secret}"}).json
    assert shown["total"]["submitted"] == 0


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("from=yesterday", "from must be a date such as 2026-01-31"),
        ("from=2026-02-01&to=2026-01-01", "from must be 0 to 400 days before to"),
        ("from=2020-01-01", "from must be 0 to 400 days before to"),
        ("group=hour", "group must be one of day, model"),
        ("first=2026-01-01", "there is no field first"),
    ],
)
def test_an_invalid_query_is_rejected_with_the_parameters_name(http, query, message):
    answer = http.get(f"/usage?{query}")
    assert answer.status_code == 422
    assert message in answer.json["error"]["message"]


@pytest.mark.parametrize("query", ["to=0001-01-01", "from=0001-01-01&to=9999-12-31", "to=9999-12-31"])
def test_dates_at_the_ends_of_the_calendar_are_handled(http, query):
    assert http.get(f"/usage?{query}").status_code in {200, 422}
