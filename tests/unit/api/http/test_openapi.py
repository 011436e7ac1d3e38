import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from flask import Flask

from svd_service.api.http import openapi
from svd_service.api.http.openapi import Answer, describe
from svd_service.api.native.schema import GenerateForm


@pytest.fixture
def document(http):
    return http.get("/openapi.json").json


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_route_is_described(app):
    silent = [
        rule.rule
        for rule in app.url_map.iter_rules()
        if not openapi.is_file(rule.endpoint) and openapi.operation_of(app, rule.endpoint) is None
    ]
    assert silent == [], "add @describe with the parameters and answers of these"


def test_the_document_has_exactly_the_routes(app, document):
    rules = (rule for rule in app.url_map.iter_rules() if not openapi.is_file(rule.endpoint))
    described = ((rule, openapi.operation_of(app, rule.endpoint)) for rule in rules)
    listed = {openapi.path_of(rule) for rule, operation in described if operation and operation.listed}
    assert set(document["paths"]) == listed


def test_every_operation_has_a_unique_name_a_summary_and_its_errors(document):
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(names)) == len(names)
    for name, operation in operations(document):
        assert operation["summary"].endswith("."), name
        assert "`" not in operation["summary"], name
        assert all(answer["description"] for answer in operation["responses"].values()), name
        if "security" not in operation:
            assert {"401", "429", "503"} <= set(operation["responses"]), name
            for status, answer in operation["responses"].items():
                if status >= "400":
                    assert answer["content"]["application/json"]["schema"], f"{name} {status}"


def test_the_service_itself_comes_first_and_every_group_has_a_description(document):
    groups = {tag["name"]: tag["description"] for tag in document["tags"]}
    webhooks = [operation for hook in document["webhooks"].values() for operation in hook.values()]
    used = {tag for operation in (*dict(operations(document)).values(), *webhooks) for tag in operation["tags"]}
    assert next(iter(groups)) == "native"
    assert used == set(groups)


def test_every_reference_resolves(document):
    references = set(re.findall(r"'\$ref': '#/components/schemas/([^']+)'", str(document)))
    assert references <= set(document["components"]["schemas"])
    assert "JobView" in references


def test_the_documented_form_is_the_one_that_is_validated(document):
    schema = document["components"]["schemas"]["GenerateForm"]
    assert set(schema["properties"]) == set(GenerateForm.__struct_fields__)
    assert schema["required"] == []  # an image or a job to extend
    assert schema["additionalProperties"] is False
    assert schema["properties"]["image"]["format"] == "binary"
    assert schema["properties"]["seed"]["maximum"] == 2**32 - 1


def test_the_requests_to_webhooks_are_described(document):
    webhook = document["webhooks"]["job.ended"]["post"]
    assert {header["name"] for header in webhook["parameters"]} == {
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    }
    assert webhook["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/WebhookEvent")
    data = document["components"]["schemas"]["WebhookEvent"]["properties"]["data"]
    assert data["$ref"].endswith("/JobView")


def test_the_document_requires_a_key_if_the_service_does(app, http, document):
    assert document["security"] == []
    keyring = app.extensions["web"].keyring
    keyring.create("ann")
    keyring._cache.clear()
    closed = http.get("/openapi.json").json
    assert closed["security"] == [{"key": []}]
    assert closed["paths"]["/health"]["get"]["security"] == []
    assert "security" not in closed["paths"]["/generate"]["post"]


def test_the_document_suits_client_generators(document):
    assert "prefixItems" not in str(document)
    assert [name for name in document["components"]["schemas"] if "." in name] == []  # two types of one name
    assert document["components"]["schemas"]["Bounds"]["properties"]["width"]["items"] == {"type": "integer"}
    assert document["servers"] == [{"url": "/"}]
    # An operation that only answers 400 would be a useless method of every client.
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert any(status.startswith(("2", "3")) for status in operation["responses"]), f"{method} {path}"


def test_only_a_form_has_files(document):
    content = document["paths"]["/v1/videos"]["post"]["requestBody"]["content"]
    name = {media_type: one["schema"]["$ref"].rpartition("/")[2] for media_type, one in content.items()}
    schemas = document["components"]["schemas"]
    assert schemas[name["multipart/form-data"]]["properties"]["input_reference"]["format"] == "binary"
    assert "binary" not in str(schemas[name["application/json"]]["properties"]["input_reference"])


class Query(msgspec.Struct):
    """Which page."""

    limit: int = 20
    after: str | None = None


class Body(msgspec.Struct):
    """A message to store."""

    text: str


def test_a_dialect_may_accept_json_and_a_query(settings):
    app = Flask("another")

    @app.post("/notes/<int:number>")
    @describe(
        "another",
        {201: Answer("The body.", Body)},
        body={openapi.JSON: Body},
        query=Query,
        headers={"X-Flag": "A flag."},
        access=openapi.PUBLIC,
    )
    def note(number: int) -> str:
        """Store a note.

        Notes are kept for a day.
        """
        return ""

    operation = openapi.document(app, closed=True)["paths"]["/notes/{number}"]["post"]
    assert (operation["summary"], operation["description"]) == ("Store a note.", "Notes are kept for a day.")
    assert [(p["name"], p["in"], p.get("required", False)) for p in operation["parameters"]] == [
        ("number", "path", True),
        ("X-Flag", "header", False),
        ("limit", "query", False),
        ("after", "query", False),
    ]
    assert operation["requestBody"]["content"] == {
        "application/json": {"schema": {"$ref": "#/components/schemas/Body"}}
    }


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.addresses += [given[name] for name in ("src", "href") if name in given]
        self.inline += (tag == "script" and "src" not in given) or tag == "style" or "style" in given
        self.inline += sum(name.startswith("on") for name in given)


def test_the_documentation_page_loads_nothing_from_other_hosts(http):
    answer = http.get("/docs", buffered=True)
    assert answer.mimetype == "text/html"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
    page = Page(answer.text)
    assert page.inline == 0
    files = [address for address in page.addresses if not address.startswith("data:")]
    assert len(files) == 4
    for address in files:
        assert "//" not in address
        assert http.get(f"/{address}", buffered=True).status_code == 200, address
    assert "openapi.json" in http.get("/docs/start.js", buffered=True).text


def test_the_documentation_page_serves_its_licences(http):
    for name in ("LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt"):
        assert http.get(f"/docs/{name}", buffered=True).status_code == 200
    assert http.get("/docs/../openapi.py", buffered=True).status_code == 404
