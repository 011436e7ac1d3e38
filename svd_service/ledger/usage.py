"""The usage of each owner, as the scripts that accept jobs and end attempts and jobs write it (`lua/lib/usage.lua`)."""

from contextlib import suppress
from datetime import date, timedelta
from typing import Final, cast

from svd_service.jobs.usage import GROUPS, DayUsage, Usage, grouped, total
from svd_service.ledger.api_keys import Keyring
from svd_service.ledger.connection import reachable
from svd_service.ledger.constants import Constants
from svd_service.ledger.record import SEPARATOR
from svd_service.ledger.scripts import Scripts

#: Number of days for which usage is kept.
KEPT_DAYS: Final = Constants().usage_days

#: The name of jobs without a key, among the names of owners.
NO_KEY: Final = "-"

_EPOCH: Final = date(1970, 1, 1)

#: Number of days read in one round trip.
BATCH: Final = 50


class UsageRecords:
    """Reads usage."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._redis = scripts.redis

    def of(self, owner: str, first: date, last: date) -> list[DayUsage]:
        """The owner's usage from `first` to `last` inclusive (UTC), by day and model; at most `KEPT_DAYS` + 1 days."""
        days = [first + timedelta(number) for number in range(min((last - first).days, KEPT_DAYS) + 1)]
        found = []
        for start in range(0, len(days), BATCH):
            batch = days[start : start + BATCH]
            with reachable(), self._redis.pipeline(transaction=False) as pipe:
                for day in batch:
                    pipe.hgetall(self._scripts.key("usage", owner, str((day - _EPOCH).days)))
                records = pipe.execute()
            for day, record in zip(batch, records, strict=True):
                found += [DayUsage(day, model, usage) for model, usage in _by_name(record).items()]
        return found

    def totals(self) -> dict[str, Usage]:
        """Usage since the beginning, by owner; that of owners beyond a maximum number is under `other`."""
        with reachable():
            return _by_name(cast(dict[str, str], self._redis.hgetall(self._scripts.key("usage_totals"))))


def usage_by(
    records: UsageRecords, keyring: Keyring, owner: str, days: tuple[date, date], group: str
) -> dict[str, Usage]:
    """The usage of one owner, or of the owner of a key, by `group` of `GROUPS`; without `owner` the total of each.

    `NO_KEY` stands for the owner of jobs without a key.

    Raises:
        UnknownKeyError: there is no such key or owner.
    """
    if owner:
        known = "" if owner == NO_KEY else keyring.known_owner(owner)
        return grouped(records.of(known, *days), GROUPS[group])
    owners = dict.fromkeys(["", *(key.owner for key in keyring.list())])
    return {each or NO_KEY: total(records.of(each, *days)) for each in owners}


def _by_name(record: dict[str, str]) -> dict[str, Usage]:
    """Usage by the part of the fields' names before the metric."""
    amounts: dict[str, dict[str, int]] = {}
    for field, amount in record.items():
        name, _, metric = field.rpartition(SEPARATOR)
        with suppress(ValueError):  # damaged
            amounts.setdefault(name, {})[metric] = int(amount)
    return {name: Usage.of(values) for name, values in sorted(amounts.items())}
