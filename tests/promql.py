"""What the dashboard and the rules ask Prometheus for: which metrics, with which labels."""

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

#: What Prometheus itself makes: of every scrape, and of the alerts.
OWN: Final = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate", "severity", "job", "instance"}}

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[A-Za-z_:][A-Za-z0-9_:]*|\[[^]]*\]|[0-9][0-9.a-z]*|[=!]~|[!=<>]=|\S')
_GROUPING: Final = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS: Final = {"and", "or", "unless", "bool", "offset"}


@dataclass(frozen=True)
class Asked:
    """One metric that a query names, and its matchers as label, operator, value."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]

    def value(self, label: str) -> str | None:
        """What `label` has to equal, if anything."""
        return next((value for name, operator, value in self.matchers if (name, operator) == (label, "=")), None)


def selectors(query: str) -> tuple[list[Asked], set[str]]:
    """The metrics that a query names, and the labels that it groups or joins by."""
    tokens = _TOKEN.findall(re.sub(r"#.*", "", query))
    found: list[Asked] = []
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
            found.append(Asked(token, tuple(matchers)))
            at = end + 1
        elif following != "(" and following not in _GROUPING:
            found.append(Asked(token, ()))
    return found, grouped


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana is given it."""
    return dict(json.loads(DASHBOARD.read_text()))


def targets() -> Iterator[dict[str, Any]]:
    """Every query of the dashboard with what belongs to it."""
    for panel in dashboard()["panels"]:
        yield from panel.get("targets", ())


@cache
def rules() -> list[dict[str, Any]]:
    """Every rule, recording or alerting."""
    return [rule for file in RULES for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


@cache
def recorded() -> dict[str, set[str]]:
    """The metrics that the rules record, and the labels that are left to them: their names begin with these."""
    names = [rule["record"] for rule in rules() if "record" in rule]
    known = ("device", "phase", "method", "url_rule", "model", "profile")
    return {name: {label for label in known if name.count(":") == 2 and label in name.split(":")[0]} for name in names}
