"""`POST /verify` of the native dialect: where a file comes from."""

from contextlib import closing
from datetime import datetime
from typing import Annotated, Any, BinaryIO, cast

from flask import Blueprint, Response, jsonify
from msgspec import Meta, Struct

from svd_service.api.http import forms
from svd_service.api.http.context import owner, verify
from svd_service.api.http.forms import UploadedFile
from svd_service.api.http.openapi import FORM, Answer, describe
from svd_service.api.native.answers import job_view
from svd_service.api.native.schema import ErrorView
from svd_service.errors import InvalidParameterError
from svd_service.jobs.verification import Verification
from svd_service.marking.findings import Credentials, Verdict, explain, verdict_of

blueprint = Blueprint("verification", __name__)


class VerifyForm(Struct, kw_only=True, forbid_unknown_fields=True):
    """A file of any kind."""

    file: Annotated[Any, Meta(description="The file.", extra_json_schema={"type": "string", "format": "binary"})]


class MadeByView(Struct):
    """The caller's job that made the file."""

    task_id: str
    status: str
    created_at: datetime
    ended_at: datetime | None


class VerifyView(Struct):
    """Where a file comes from, as far as its Content Credentials prove it."""

    verdict: Annotated[
        Verdict,
        Meta(
            description="`made_here`: this installation signed it. `made_elsewhere`: somebody else did. `invalid`: it "
            "was changed after signing. `unmarked`: it has no Content Credentials."
        ),
    ]
    message: Annotated[str, Meta(description="The same as a sentence.")]
    credentials: Credentials | None
    job: Annotated[
        MadeByView | None,
        Meta(description="The job that made it, if it is the caller's and its record still exists."),
    ]

    @classmethod
    def of(cls, found: Verification) -> "VerifyView":
        """The representation of `found`."""
        job = None if found.job is None else job_view(found.job)
        return cls(
            verdict_of(found.credentials),
            explain(found.credentials),
            found.credentials,
            None if job is None else MadeByView(job.task_id, job.status, job.created_at, job.ended_at),
        )


@blueprint.post("/verify")
@describe(
    "native",
    {200: Answer("What the file's Content Credentials prove.", VerifyView)},
    error=ErrorView,
    errors={
        400: "The form is damaged.",
        413: "The file has too many bytes (`SVD_MAX_UPLOAD_BYTES`).",
        415: "The body is no form.",
        422: "The file is missing, or its Content Credentials need too much time or memory to read.",
        501: "The service lacks the C2PA library.",
    },
    body={FORM: VerifyForm},
)
def verify_file() -> Response:
    """Tell whether this installation made a file, somebody else did, or it is unmarked or changed.

    Reads its Content Credentials (C2PA). No other host is contacted, so that the names of other signers are not
    verified. The file is not kept.
    """
    form = forms.parse_form(VerifyForm)
    if not isinstance(form.file, UploadedFile):
        raise InvalidParameterError("file", "file must be a file")
    with closing(form.file.stream) as stream:
        found = verify()(cast(BinaryIO, stream), owner=owner())
    return jsonify(VerifyView.of(found))
