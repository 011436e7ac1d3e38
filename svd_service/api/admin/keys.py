"""The operators' routes about API keys: `/admin/keys`, and the usage of all owners, `/admin/usage`."""

from dataclasses import asdict, fields
from datetime import date, datetime
from typing import Annotated, Any, Final, Literal

from flask import Blueprint, Response, jsonify
from flask.typing import ResponseReturnValue
from msgspec import Meta, Struct, field

from svd_service.api.admin.routes import operator
from svd_service.api.http import forms
from svd_service.api.http.context import jobs, keyring, webhook_secrets
from svd_service.api.http.openapi import ADMIN, BODY_ERRORS, Answer, describe, form_or_json
from svd_service.api.native.schema import ErrorView
from svd_service.api.native.usage import UsageQuery, UsageRow
from svd_service.jobs.allowance import Allowance
from svd_service.ledger.api_keys import GRACE
from svd_service.ledger.key import ALL, Key, NewKey
from svd_service.ledger.usage import usage_by
from svd_service.parameters import MAX_PRIORITY, MAX_URL
from svd_service.presentation import moment, shown_url
from svd_service.webhooks.signing import checked_url

blueprint = Blueprint("admin_keys", __name__, url_prefix="/admin")

_UNKNOWN: Final = {404: "There is no such key in Redis."}
_INVALID: Final = {**BODY_ERRORS, 422: "A field is invalid."}

_Quota = Annotated[int, Meta(ge=0, le=2**53, description="0: none.")] | None
_Seconds = Annotated[float, Meta(ge=0, le=1e12, description="0: none.")] | None
_Names = Annotated[str, Meta(max_length=2_000, description=f"Names with commas between them, or `{ALL}`.")] | None


class LimitsForm(Struct, kw_only=True, forbid_unknown_fields=True):
    """Limits of a key's owner; what is not named stays as it is.

    `expires` is the last day of the key itself (UTC), or `never`.
    """

    jobs_per_day: _Quota = None
    device_seconds_per_day: _Seconds = None
    device_seconds_per_month: _Seconds = None
    concurrent_jobs: _Quota = None
    models: _Names = None
    profiles: _Names = None
    expires: Annotated[str, Meta(max_length=20)] = ""

    def limits(self) -> dict[str, Any]:
        """The named fields of `Allowance`."""
        named = {each.name: getattr(self, each.name) for each in fields(Allowance)}
        lists = {name: _names(named[name]) for name in ("models", "profiles") if named[name] is not None}
        return {name: value for name, value in (named | lists).items() if value is not None}


class NewKeyForm(LimitsForm, kw_only=True, forbid_unknown_fields=True):
    """A new key."""

    name: Annotated[str, Meta(min_length=1, max_length=100, description="Of its holder, for display only.")]
    owner: Annotated[
        str, Meta(max_length=64, description="An owner with other keys, or the id of one: the new key has its jobs.")
    ] = ""
    priority: Annotated[int, Meta(ge=0, le=MAX_PRIORITY, description="Highest priority of its jobs.")] = 0
    webhook_url: Annotated[str, Meta(max_length=MAX_URL, description="Default webhook URL of its jobs.")] = ""
    admin: Annotated[bool, Meta(description="Whether it is an operator's key.")] = False


class RotateForm(Struct, kw_only=True, forbid_unknown_fields=True):
    """How long the old key stays valid."""

    grace: Annotated[float, Meta(ge=0, le=30 * 86_400, description="Seconds.")] = GRACE


class KeyRecord(Struct, kw_only=True):
    """A key. `successor` is the id of the key that replaced it; `webhook_url` has no credentials and no query."""

    id: str
    name: str
    owner: str
    priority: int
    created_at: Annotated[datetime | None, Meta(description="Empty for keys of `SVD_API_KEYS`.")]
    revoked_at: datetime | None
    expires_at: datetime | None
    successor: str
    scopes: list[str]
    webhook_url: str
    limits: Allowance

    @classmethod
    def of(cls, key: Key) -> "KeyRecord":
        """The record of a key."""
        return cls(
            id=key.id,
            name=key.name,
            owner=key.owner,
            priority=key.priority,
            created_at=moment(key.created_at),
            revoked_at=moment(key.revoked_at),
            expires_at=moment(key.expires_at),
            successor=key.successor,
            scopes=list(key.scopes),
            webhook_url=shown_url(key.webhook_url) if key.webhook_url else "",
            limits=key.allowance,
        )


class KeysView(Struct, kw_only=True):
    """All keys, revoked ones included."""

    keys: list[KeyRecord]


class NewKeyView(Struct, kw_only=True):
    """A new key. `secret` is shown here only; `webhook_secret` signs the webhooks of its owner."""

    key: KeyRecord
    secret: str
    webhook_secret: str


class OwnersUsageQuery(UsageQuery, kw_only=True, forbid_unknown_fields=True):
    """Whose usage, of which days."""

    key: Annotated[str, Meta(max_length=64, description="A key or owner. Without it: the total of each owner.")] = ""
    format: Literal["json"] = "json"


class OwnersUsageView(Struct, kw_only=True):
    """Usage from one day to another (UTC, inclusive), by day or model of an owner, or by owner."""

    first: date = field(name="from")
    last: date = field(name="to")
    usage: list[UsageRow]


@blueprint.get("/keys")
@describe("admin", {200: Answer("The keys.", KeysView)}, error=ErrorView, access=ADMIN)
def list_keys() -> Response:
    """The keys, with their owners and limits."""
    return jsonify(KeysView(keys=[KeyRecord.of(key) for key in keyring().list()]))


@blueprint.post("/keys")
@describe(
    "admin",
    {201: Answer("The key and its secret.", NewKeyView)},
    error=ErrorView,
    errors=_INVALID,
    body=form_or_json(NewKeyForm),
    access=ADMIN,
)
def create() -> ResponseReturnValue:
    """Create a key. Its secret is in this response only: the service stores its SHA-256."""
    form = forms.parse(NewKeyForm)
    if form.webhook_url:
        checked_url(form.webhook_url, jobs().settings)
    new = NewKey(form.name, form.owner, form.priority, form.webhook_url, form.limits(), form.expires, form.admin)
    key, secret = keyring().create(**new.arguments())
    return _new(key, secret, "create key", f"scopes {', '.join(key.scopes)}" if key.scopes else "")


@blueprint.post("/keys/<key_id>/rotate")
@describe(
    "admin",
    {201: Answer("The new key and its secret.", NewKeyView)},
    error=ErrorView,
    errors={**_INVALID, 404: "There is no such key in Redis, or it is no longer valid."},
    body=form_or_json(RotateForm),
    access=ADMIN,
)
def rotate(key_id: str) -> ResponseReturnValue:
    """Replace a key by a new one with the same jobs, limits and permissions.

    The old one is valid for `grace` more seconds.
    """
    key, secret = keyring().rotate(key_id, forms.parse(RotateForm).grace)
    return _new(key, secret, "rotate key", f"replaces {key_id}")


@blueprint.post("/keys/<key_id>/revoke")
@describe("admin", {200: Answer("The key.", KeyRecord)}, error=ErrorView, errors=_UNKNOWN, access=ADMIN)
def revoke(key_id: str) -> Response:
    """Revoke a key and its share links, within two seconds. Other keys of its owner stay valid."""
    return _changed(keyring().revoke(key_id), "revoke key")


@blueprint.post("/keys/<key_id>/limits")
@describe(
    "admin",
    {200: Answer("The key.", KeyRecord)},
    error=ErrorView,
    errors={**_INVALID, **_UNKNOWN},
    body=form_or_json(LimitsForm),
    access=ADMIN,
)
def limit(key_id: str) -> Response:
    """Change the limits of the key and of all others of its owner, or the key's last day."""
    form = forms.parse(LimitsForm)
    return _changed(keyring().change(key_id, lambda key: key.limited(form.limits(), form.expires)), "limit key")


@blueprint.get("/usage")
@describe(
    "admin",
    {200: Answer("The usage.", OwnersUsageView)},
    error=ErrorView,
    errors={404: "There is no such key or owner.", 422: "A query parameter is invalid."},
    query=OwnersUsageQuery,
    access=ADMIN,
)
def usage() -> Response:
    """The usage of one owner by day or by model, or the total of each owner; `-` are jobs without a key."""
    query = forms.parse_query(OwnersUsageQuery)
    days = query.days()
    sums = usage_by(jobs().ledger.usage, keyring(), query.key, days, query.group)
    rows = [UsageRow(group=name, **asdict(amounts)) for name, amounts in sums.items()]
    return jsonify(OwnersUsageView(first=days[0], last=days[1], usage=rows))


def _new(key: Key, secret: str, act: str, reason: str) -> ResponseReturnValue:
    jobs().ledger.controls.record(operator(), act, f"{key.id} ({key.name})", reason)
    view = NewKeyView(key=KeyRecord.of(key), secret=secret, webhook_secret=webhook_secrets().of(key.owner)[0])
    # The secret must be in no cache.
    return jsonify(view), 201, {"Cache-Control": "no-store"}


def _changed(key: Key, act: str) -> Response:
    jobs().ledger.controls.record(operator(), act, f"{key.id} ({key.name})")
    return jsonify(KeyRecord.of(key))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for each in text.split(",") if (name := each.strip()) and name != ALL)
