"""What a key may use: quotas, models and profiles."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from svd_service.errors import NotAllowedError, QuotaExceededError


@dataclass(frozen=True)
class Allowance:
    """The quotas of a key (0: no limit), and the models and profiles that it may use (empty: all).

    Days and months are those of UTC. Device time counts as in `Usage.device_seconds`, when an attempt ends. Concurrent
    jobs are those that have not ended.
    """

    jobs_per_day: int = 0
    device_seconds_per_day: float = 0.0
    device_seconds_per_month: float = 0.0
    concurrent_jobs: int = 0
    models: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`, also after JSON. Fields of a newer version are ignored."""
        known = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        lists = {name: tuple(known.get(name, ())) for name in ("models", "profiles")}
        return cls(**{**known, **lists})

    @property
    def quotas(self) -> dict[str, int]:
        """The quotas that are limits, as the ledger's scripts know them: device time in milliseconds."""
        quotas = {
            "jobs_per_day": self.jobs_per_day,
            "device_ms_per_day": round(1000 * self.device_seconds_per_day),
            "device_ms_per_month": round(1000 * self.device_seconds_per_month),
            "concurrent_jobs": self.concurrent_jobs,
        }
        return {name: limit for name, limit in quotas.items() if limit}

    def require(self, model: str, profile: str) -> None:
        """Check the model and the profile of a job.

        Raises:
            NotAllowedError: the key may not use one of them.
        """
        for parameter, value, allowed in (("model", model, self.models), ("profile", profile, self.profiles)):
            if allowed and value not in allowed:
                names = ", ".join(allowed)
                raise NotAllowedError(parameter, f"this key must not use the {parameter} {value}, only {names}")


def exceeded(quota: str, limit: int, retry_after: int, number: int = 1) -> QuotaExceededError:
    """The error for a quota of `Allowance.quotas` that is renewed after `retry_after` seconds.

    It is used up, or what is left of it is not enough for `number` jobs.
    """
    words = {
        "jobs_per_day": f"{limit} jobs a day",
        "device_ms_per_day": f"{limit / 1000:g} seconds of device time a day",
        "device_ms_per_month": f"{limit / 1000:g} seconds of device time a month",
        "concurrent_jobs": f"{limit} jobs at a time",
    }[quota]
    if quota == "concurrent_jobs":
        shortage = "" if number == 1 else f", too few left for {number}"
        return QuotaExceededError(f"{words}{shortage}: retry when one of them has ended", retry_after)
    renewed = datetime.now(UTC) + timedelta(seconds=retry_after)
    shortage = f"too few left for {number}" if number > 1 and quota == "jobs_per_day" else "used up"
    return QuotaExceededError(f"{words}, {shortage} until {renewed:%Y-%m-%d %H:%M} UTC", retry_after)
