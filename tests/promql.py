"""The metrics and labels that the dashboard and the rules query."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

DOCKER: Final = Path(__file__).parents[1] / "docker"
DASHBOARD: Final = DOCKER / "grafana" / "dashboards" / "svd-service.json"
RULES: Final = sorted((DOCKER / "prometheus" / "rules").glob("*.yml"))

#: Metrics that Prometheus itself creates, for each scrape and for alerts, with their labels.
OWN: Final = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate", "severity", "job", "instance"}}

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[A-Za-z_:][A-Za-z0-9_:]*|\[[^]]*\]|[0-9][0-9.a-z]*|[=!]~|[!=<>]=|\S')
_GROUPING: Final = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS: Final = {"and", "or", "unless", "bool", "offset"}


@dataclass(frozen=True)
class MetricSelector:
    """A metric in a query, with its matchers as (label, operator, value)."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]

    def value(self, label: str) -> str | None:
        """The value that `label` must equal, if any."""
        return next((value for name, operator, value in self.matchers if (name, operator) == (label, "=")), None)


def selectors(query: str) -> tuple[list[MetricSelector], set[str]]:
    """Return the metrics in a query, and the labels that it groups or joins by."""
    tokens = _TOKEN.findall(re.sub(r"#.*", "", query))
    found: list[MetricSelector] = []
    grouped: set[str] = set()
    at = 0
    while at < len(tokens):
        token, following = tokens[at], tokens[at + 1] if at + 1 < len(tokens) else ""
        at += 1
        if not re.match(r"[A-Za-z_:]", token) or token in _WORDS:
            continue
        if token in _GROUPING:
            if following == "(":
                end = tokens.index(")", at)
                grouped |= {name for name in tokens[at + 1 : end] if name != ","}
                at = end + 1
        elif following == "{":
            end = tokens.index("}", at)
            inner = [part for part in tokens[at + 1 : end] if part != ","]
            matchers = zip(inner[::3], inner[1::3], (json.loads(value) for value in inner[2::3]), strict=True)
            found.append(MetricSelector(token, tuple(matchers)))
            at = end + 1
        elif following != "(" and following not in _GROUPING:
            found.append(MetricSelector(token, ()))
    return found, grouped


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana loads it."""
    return dict(json.loads(DASHBOARD.read_text()))


def targets() -> Iterator[dict[str, Any]]:
    """All query targets of the dashboard's panels."""
    for panel in dashboard()["panels"]:
        yield from panel.get("targets", ())


@cache
def rules() -> list[dict[str, Any]]:
    """All rules, recording and alerting."""
    return [rule for file in RULES for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


@cache
def recorded() -> dict[str, set[str]]:
    """The metrics that the rules record, with the labels that they keep (a metric's name begins with its labels)."""
    names = [rule["record"] for rule in rules() if "record" in rule]
    known = ("device", "phase", "method", "url_rule", "model", "profile")
    return {name: {label for label in known if name.count(":") == 2 and label in name.split(":")[0]} for name in names}
