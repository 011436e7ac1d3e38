"""The documents match the code: they have every setting, route and metric, and none that does not exist."""

import ast
import inspect
import itertools
import re
import textwrap
from pathlib import Path

import msgspec
from msgspec import structs

from svd_service.api import create_app
from svd_service.api.http.openapi import is_file, path_of
from svd_service.api.ops import health
from svd_service.config import Settings, SettingsFields
from svd_service.ledger import open_ledger
from svd_service.ledger.connection import connect
from svd_service.ledger.controls import Pausable
from svd_service.telemetry.exporter import HostCollector, LedgerCollector

ROOT = Path(__file__).parents[2]


def descriptions() -> dict[str, str]:
    """The description of every setting: the string below it in `Defaults`."""
    body = ast.parse(inspect.getsource(SettingsFields)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for setting, below in itertools.pairwise(body.body):
        if isinstance(setting, ast.AnnAssign) and isinstance(setting.target, ast.Name):
            assert isinstance(below, ast.Expr), f"{setting.target.id} has no description below it"
            found[setting.target.id] = " ".join(ast.literal_eval(below.value).split())
    return found


def described() -> list[tuple[str, str, str]]:
    """Variable, default (empty if it cannot be written down) and description of every setting."""
    texts = descriptions()
    rows = []
    for field in structs.fields(Settings):
        default = "data" if field.default is msgspec.NODEFAULT else field.default
        rows.append((field.encode_name, "" if default is None else str(default), texts[field.name]))
    return rows


def settings_table() -> str:
    """The table of docs/configuration.md as it should be."""
    rows = [f"| `{name}` | {f'`{default}`' if default else ''} | {words} |" for name, default, words in described()]
    return "\n".join(["| Variable | Default | Description |", "|---|---|---|", *rows])


def env_example() -> str:
    """.env.example as it should be."""
    head = (
        "# Copy this to .env and uncomment what you change. docs/configuration.md has the details.\n"
        "\n# Token of a Hugging Face account that has accepted the licence of the weights (SVD-XT needs one):\n"
        "# https://huggingface.co/settings/tokens\n#HF_TOKEN=\n"
    )
    return head + "".join(
        f"\n{textwrap.fill(words, 110, initial_indent='# ', subsequent_indent='# ')}\n#{name}={default}\n"
        for name, default, words in described()
    )


def test_the_table_of_settings_matches_the_code() -> None:
    assert settings_table() in (ROOT / "docs" / "configuration.md").read_text()


def test_the_example_of_an_env_file_matches_the_code() -> None:
    assert (ROOT / ".env.example").read_text() == env_example()


def test_the_example_of_an_env_file_is_valid_when_uncommented() -> None:
    lines = re.findall(r"^#([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert Settings.from_mapping(dict(lines)) == Settings()


def test_exactly_the_existing_routes_are_documented(settings: Settings) -> None:
    rules = (rule for rule in create_app(settings).url_map.iter_rules() if not is_file(rule.endpoint))
    served = {path_of(rule) for rule in rules}
    documents = "".join((ROOT / "docs" / name).read_text() for name in ("api.md", "dialects.md"))
    assert set(re.findall(r"`(?:[A-Z]+ )?(/[^`\s]*)`", documents)) == served


def test_exactly_the_existing_reasons_of_health_are_in_the_operations_guide() -> None:
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(health))) if isinstance(node, ast.Call)]
    codes = [call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Reason"]
    reasons = {code.value for code in codes if isinstance(code, ast.Constant)} | {f"{what}_paused" for what in Pausable}
    (listed,) = re.findall(
        r"^- \*\*Health\*\* is (.*?)\n- ", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert set(re.findall(r"`(\w+)`", listed)) - {"ok", "degraded", "unavailable", "reasons", "message"} == reasons


def test_every_metric_is_in_the_operations_guide(settings: Settings) -> None:
    guide = (ROOT / "docs" / "operations.md").read_text()
    ledger = LedgerCollector(open_ledger(connect(settings), settings).stats)
    families = [*ledger.describe(), *HostCollector(settings).describe()]
    suffixes = {"counter": ["_total"], "summary": ["_count", "_sum"], "gauge": [""], "histogram": [""]}
    names = [f"{family.name}{suffix}" for family in families for suffix in suffixes[family.type]]
    assert [name for name in names if f"`{name}`" not in guide] == []
