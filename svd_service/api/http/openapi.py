"""OpenAPI 3.1: `describe` documents a view beside its route; `document` renders all of them for machines.

The structs named here are the ones that validate the request and make the answer, so that the document cannot say
anything else. `tests/unit/api/http/test_openapi.py` fails for a route that is not described.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import chain
from typing import Any, Final, TypeVar

import msgspec
from flask import Flask
from werkzeug.routing import Rule

from svd_service import __version__
from svd_service.api.http.forms import UploadedFile
from svd_service.ledger.key import ADMIN as ADMIN_SCOPE
from svd_service.presentation import GroupEvent, WebhookEvent

#: A file as the body. A request with `Range` gets 206 and a part of it, which the document leaves out: generators of
#: clients read a file as JSON or text as soon as there is a second successful answer.
FILE: Final = UploadedFile

#: The media type of any file, which `openapi-python-client` needs to see to read an answer as a file: it knows none of
#: the media types of videos and images.
ANY_FILE: Final = "application/octet-stream"

#: Media types of request bodies.
FORM: Final = "multipart/form-data"
JSON: Final = "application/json"

#: Errors of a route that takes a form or a JSON object.
BODY_ERRORS: Final[Mapping[int, str]] = {
    400: "The body is damaged.",
    415: "The body is neither a form nor a JSON object.",
}

#: The media type of server-sent events.
EVENT_STREAM: Final = ("text/event-stream",)

#: Errors of every route that requires a key.
ANYWHERE: Final[Mapping[int, str]] = {
    401: "The API key is missing or invalid.",
    403: "The key must not do this. Without keys: another site's page or an unknown host name is behind the request.",
    429: "Too many requests or queued jobs, or a quota of the key is used up. Retry after `Retry-After` seconds.",
    503: "Redis or the artifact store cannot be reached. Nothing is lost; retry.",
}
_HEADERS: Final = {
    401: {"WWW-Authenticate": "`Bearer`."},
    429: {"Retry-After": "Seconds until a retry is worthwhile."},
    503: {"Retry-After": "Seconds until a retry is worthwhile."},
}

#: A part of a path that is one of several words: `<any(mp4, gif):format>`.
_CHOICE: Final = re.compile(r"<any\(([^)]*)\):([^<>]+)>")

#: The groups of routes in the order in which people look for them, and what each of them is.
TAGS: Final[Mapping[str, str]] = {
    "native": "The service's own API.",
    "admin": "For operators: all keys' jobs, pauses, workers and keys. Requires an API key with the scope `admin`.",
    "openai": "OpenAI's Videos API, as its clients use it.",
    "stability": "Stability AI's image-to-video API, as its clients use it.",
    "service": "For people, operators and their tools.",
    "webhooks": "Requests that the service sends.",
}

View = TypeVar("View", bound=Callable[..., Any])


class Access(Enum):
    """Who may call a route: everybody, without a rate limit; holders of a key, if there are keys; operators."""

    PUBLIC = "public"
    KEY = "key"
    ADMIN = ADMIN_SCOPE


PUBLIC: Final = Access.PUBLIC
ADMIN: Final = Access.ADMIN


@dataclass(frozen=True)
class Answer:
    """One answer of a route: what it means, the type of its body if it has one, its headers and what they say.

    `alternatives` are the types of the body in other media types.
    """

    description: str
    schema: Any = None
    media_types: tuple[str, ...] = ("application/json",)
    headers: Mapping[str, str] = field(default_factory=dict)
    alternatives: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """What a route takes and answers. Its summary and description are its docstring's."""

    tag: str
    answers: Mapping[int, Answer]
    body: Mapping[str, type[msgspec.Struct]] = field(default_factory=dict)
    query: type[msgspec.Struct] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    access: Access = Access.KEY
    listed: bool = True

    @property
    def public(self) -> bool:
        """Whether it needs no API key."""
        return self.access is Access.PUBLIC


def _webhook_request(event: type[msgspec.Struct]) -> Operation:
    """The request to a webhook (docs/webhooks.md), and the responses to it."""
    return Operation(
        "webhooks",
        {
            204: Answer("It was acknowledged; any status from 200 to 299 does so."),
            410: Answer("The receiver gave up the webhook; it is not sent again. After any other status it is."),
        },
        body={JSON: event},
        headers={
            "webhook-id": "Of the event: the same whenever it is sent.",
            "webhook-timestamp": "When it was sent, in seconds since 1970.",
            "webhook-signature": "Space between signatures, one of which fits: `v1,` and Base64.",
        },
        access=Access.PUBLIC,
    )


#: The requests to webhooks, by the names of their path items, with summaries.
_WEBHOOKS: Final = {
    "job.ended": ("A job that named a `webhook_url` has ended.", _webhook_request(WebhookEvent)),
    "group.ended": ("All jobs of a group that named a `webhook_url` have ended.", _webhook_request(GroupEvent)),
}


def describe(
    tag: str,
    answers: Mapping[int, Answer],
    *,
    error: Any = None,
    errors: Mapping[int, str] | None = None,
    body: Mapping[str, type[msgspec.Struct]] | None = None,
    query: type[msgspec.Struct] | None = None,
    headers: Mapping[str, str] | None = None,
    access: Access = Access.KEY,
) -> Callable[[View], View]:
    """Describe the decorated view; goes between the route and the function.

    Args:
        tag: the dialect.
        answers: successful responses, by status.
        error: type of an error's body in this dialect.
        errors: descriptions of the errors beside those of `ANYWHERE`, by status.
        body: schemas of the request's body, by media type.
        query: schema of the query string.
        headers: descriptions of request headers, by name.
        access: who may call it.
    """
    wrong = {**({} if access is Access.PUBLIC else ANYWHERE), **(errors or {})}
    failures = {status: Answer(words, error, headers=_HEADERS.get(status, {})) for status, words in wrong.items()}
    operation = Operation(tag, {**answers, **failures}, body or {}, query, headers or {}, access)

    def mark(view: View) -> View:
        view.operation = operation  # type: ignore[attr-defined]
        return view

    return mark


def form_or_json(schema: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct]]:
    """The `body` of a route that takes the same fields as a form and as a JSON object."""
    return {FORM: schema, JSON: schema}


def unlisted(view: View) -> View:
    """Leave a described view out of the document, since clients have no use for one that only answers 400."""
    view.operation = replace(view.operation, listed=False)  # type: ignore[attr-defined]
    return view


def operation_of(app: Flask, endpoint: str | None) -> Operation | None:
    """The description of an endpoint's view, if it has one."""
    return getattr(app.view_functions.get(endpoint or ""), "operation", None)


def is_file(endpoint: str | None) -> bool:
    """Whether an endpoint is Flask's own, for the files of a blueprint."""
    return endpoint is not None and endpoint.endswith(".static")


def is_public(app: Flask, endpoint: str | None) -> bool:
    """Whether the endpoint requires no key: static files, and what is described as public."""
    operation = operation_of(app, endpoint)
    return is_file(endpoint) or (operation is not None and operation.public)


def document(app: Flask, *, closed: bool) -> dict[str, Any]:
    """The OpenAPI document of all described routes; `closed` where a key is needed."""
    described = list(_described(app))
    requests = (operation for _, operation in _WEBHOOKS.values())
    schemas = _Schemas(chain((operation for _, _, operation, _ in described), requests))
    paths: dict[str, dict[str, Any]] = {}
    for rule, method, operation, view in described:
        words = inspect.getdoc(view) or ""
        path = path_of(rule)
        paths.setdefault(path, {})[method] = {
            "operationId": f"{method}{re.sub(r'[^a-z0-9]+', '_', path.lower()).rstrip('_')}",
            **_operation(operation, rule, schemas),
            "summary": words.partition("\n")[0].replace("`", ""),  # plain text, unlike a description
            "description": words.partition("\n")[2].strip(),
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "svd-service",
            "version": __version__,
            "summary": "An image goes in, a short video comes out: Stable Video Diffusion.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": words} for name, words in TAGS.items()],
        "paths": dict(sorted(paths.items(), key=lambda item: (item[0] != "/generate", item[0]))),
        "webhooks": {
            name: {
                "post": {
                    "operationId": name.replace(".", "_"),
                    "summary": summary,
                    "description": "Signed according to Standard Webhooks, and retried until it is acknowledged.",
                    **_operation(operation, None, schemas),
                }
            }
            for name, (summary, operation) in _WEBHOOKS.items()
        },
        "security": [{"key": []}] if closed else [],
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key, `sk-svd-…`."},
            },
        },
    }


def _described(app: Flask) -> Iterator[tuple[Rule, str, Operation, Callable[..., Any]]]:
    for rule in app.url_map.iter_rules():
        operation = operation_of(app, rule.endpoint)
        if operation is not None and operation.listed:
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield rule, method.lower(), operation, app.view_functions[rule.endpoint]


def path_of(rule: Rule) -> str:
    """The path of a rule as OpenAPI writes it."""
    return re.sub(r"<(?:[^<>:]+:)?([^<>]+)>", r"{\1}", rule.rule)


class _Schemas:
    """The schemas of all types of the operations, by the type."""

    def __init__(self, operations: Iterator[Operation]) -> None:
        kinds: dict[int, Any] = {}
        for operation in operations:
            answers = operation.answers.values()
            mentioned = [kind for answer in answers for kind in (answer.schema, *answer.alternatives.values())]
            for kind in (*mentioned, *operation.body.values(), operation.query):
                if kind is not None:
                    kinds[id(kind)] = kind
        schemas, self.components = msgspec.json.schema_components(
            kinds.values(), schema_hook=_schema_of_ours, ref_template="#/components/schemas/{name}"
        )
        self._schemas = dict(zip(kinds, schemas, strict=True))
        for component in self.components.values():
            _simplify_pairs(component)

    def of(self, kind: Any) -> dict[str, Any]:
        return self._schemas[id(kind)]

    def fields_of(self, kind: type[msgspec.Struct]) -> Iterator[tuple[str, dict[str, Any], bool]]:
        """Name, schema and whether it is required, of each field of a struct."""
        whole = self.components[self.of(kind)["$ref"].rpartition("/")[2]]
        for name, schema in whole["properties"].items():
            yield name, schema, name in whole.get("required", ())


def _simplify_pairs(schema: Any) -> None:
    """Describe tuples of one type as arrays: client generators do not know `prefixItems` with `items: false`."""
    if isinstance(schema, list):
        for each in schema:
            _simplify_pairs(each)
    if isinstance(schema, dict):
        for each in schema.values():
            _simplify_pairs(each)
        kinds = schema.get("prefixItems", [])
        if kinds and all(kind == kinds[0] for kind in kinds):
            del schema["prefixItems"]
            schema["items"] = kinds[0]


def _schema_of_ours(kind: type) -> dict[str, Any]:
    if kind is UploadedFile:
        return {"type": "string", "format": "binary"}
    raise NotImplementedError(kind)


def _operation(operation: Operation, rule: Rule | None, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {
        "tags": [operation.tag],
        "parameters": list(_parameters(operation, rule, schemas)),
        "responses": {str(status): _answer(answer, schemas) for status, answer in sorted(operation.answers.items())},
    }
    content = {media_type: {"schema": schemas.of(kind)} for media_type, kind in operation.body.items()}
    if content:
        described["requestBody"] = {"required": True, "content": content}
    if operation.public:
        described["security"] = []
    return described


def _parameters(operation: Operation, rule: Rule | None, schemas: _Schemas) -> Iterator[dict[str, Any]]:
    if rule is not None:
        yield from _parts_of(rule)
    for name, words in operation.headers.items():
        yield {"name": name, "in": "header", "description": words, "schema": {"type": "string"}}
    if operation.query is not None:
        for name, schema, required in schemas.fields_of(operation.query):
            rest = {**schema}
            words = rest.pop("description", "")
            yield {"name": name, "in": "query", "required": required, "description": words, "schema": rest}


def _parts_of(rule: Rule) -> Iterator[dict[str, Any]]:
    choices = {name: [word.strip() for word in words.split(",")] for words, name in _CHOICE.findall(rule.rule)}
    for name in sorted(rule.arguments):
        choice = {"enum": choices[name]} if name in choices else {}
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", **choice}}


def _answer(answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.headers:
        described["headers"] = {
            name: {"description": words, "schema": {"type": "string"}} for name, words in answer.headers.items()
        }
    if answer.schema is not None:
        any_file = {ANY_FILE: FILE} if answer.schema is FILE else {}
        kinds = {**dict.fromkeys(answer.media_types, answer.schema), **answer.alternatives, **any_file}
        described["content"] = {name: {"schema": schemas.of(kind)} for name, kind in kinds.items()}
    return described
