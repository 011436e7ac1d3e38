"""Forms and JSON as real clients write them, and malformed ones."""

import base64
import io
import json
import resource
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from svd_service.api.http import multipart
from svd_service.bootstrap import UseCases
from tests.unit.jobs.images.image_files import stored

BOUNDARY = "----Boundary7"
PNG = stored(Image.frombytes("RGB", (8, 8), bytes(range(192))), "png")


def part(disposition: str | bytes, content: bytes, *headers: str) -> bytes:
    name = disposition if isinstance(disposition, bytes) else disposition.encode()
    lines = [b"Content-Disposition: form-data; " + name, *(header.encode() for header in headers)]
    return f"--{BOUNDARY}\r\n".encode() + b"\r\n".join(lines) + b"\r\n\r\n" + content + b"\r\n"


def send(http: FlaskClient, *parts: bytes, path: str = "/generate") -> TestResponse:
    body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    return http.post(path, data=body, content_type=f"multipart/form-data; boundary={BOUNDARY}")


IMAGE = part('name="image"; filename="a.png"', PNG)


@pytest.mark.parametrize(
    "file",
    [
        'filename="cat.png"',
        "filename=cat.png",
        "filename=\"\"; filename*=UTF-8''%e2%82%ac%20rates.png",
        "filename*=UTF-8''na%C3%AFve.png",
        "filename*=iso-8859-1''caf%E9.png",
        "filename*=unknown''%ff",
        'filename="\N{CAT FACE}\N{HEART WITH RIBBON}.png"',
        'filename="café.png"'.encode("latin-1"),
        'filename="猫.png"'.encode("shift_jis"),
        'filename="a\\"b;c=d.png"',
        'filename="../../../etc/passwd"',
        'filename="' + "x" * 5_000 + '.png"',
        'filename=""',
    ],
)
def test_an_image_is_accepted_with_any_file_name(http: FlaskClient, file: str | bytes) -> None:
    name = file if isinstance(file, bytes) else file.encode()
    found = send(http, part(b'name="image"; ' + name, PNG, "Content-Type: image/png"))
    assert found.status_code == 202, found.text


@pytest.mark.parametrize("headers", [(), ("Content-Type: image/png",), ("Content-Type: application/octet-stream",)])
def test_an_image_is_accepted_without_a_file_name(http: FlaskClient, headers: tuple[str, ...]) -> None:
    assert send(http, part('name="image"', PNG, *headers)).status_code == 202
    for field in ("input_reference", "image_reference"):
        found = send(http, part(f'name="{field}"', PNG, *headers), part('name="prompt"', b"x"), path="/v1/videos")
        assert found.status_code == 200, found.text


def test_parts_without_a_name_are_ignored(http: FlaskClient) -> None:
    assert send(http, part('filename="a.png"', b"x"), part("", b"y"), IMAGE).status_code == 202


def test_an_empty_file_field_is_no_image(http: FlaskClient) -> None:
    found = send(http, part('name="image"; filename=""', b"", "Content-Type: application/octet-stream"))
    assert (found.status_code, found.get_json()["error"]["code"]) == (400, "missing_image")


@pytest.mark.parametrize(
    "body",
    [
        IMAGE,
        IMAGE[:-40],
        b"",
        b"\r\n" * 10,
        f"--{BOUNDARY}\r\nX: y\r\n\r\nz\r\n--{BOUNDARY}--".encode(),
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=".encode() + b"\xff\xfe",
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/v1/videos", "/v2beta/image-to-video"])
def test_a_damaged_form_is_a_client_error(http: FlaskClient, body: bytes, path: str) -> None:
    found = http.post(path, data=body, content_type=f"multipart/form-data; boundary={BOUNDARY}")
    assert found.status_code == 400
    assert found.is_json


@pytest.mark.parametrize(
    ("content_type", "status"),
    [("multipart/form-data", 400), ("multipart/form-data; boundary=é", 400), ("text/plain", 415), ("", 415)],
)
def test_a_body_that_is_no_form_is_a_client_error(http: FlaskClient, content_type: str, status: int) -> None:
    assert http.post("/generate", data=IMAGE, headers={"Content-Type": content_type}).status_code == status


# Sizes


@pytest.mark.parametrize(
    "parts",
    [
        [part(f'name="a{number}"', b"x") for number in range(200)],
        [part('name="prompt"', b"x" * 500_000)],
        [part(f'name="a{number}"', b"x" * 10_000) for number in range(50)],
        [part('name="a"', b"x", "X-Long: " + "y" * 300_000)],
        [part(f'name="{"n" * 300_000}"', b"x")],
        [b"preamble " * 50_000],
    ],
    ids=["parts", "field", "fields", "header", "name", "preamble"],
)
@pytest.mark.parametrize("path", ["/generate", "/v1/videos", "/v2beta/image-to-video"])
def test_parts_other_than_the_image_are_limited_in_size(http: FlaskClient, parts: list[bytes], path: str) -> None:
    field = "input_reference" if path.startswith("/v1") else "image"
    found = send(http, *parts, IMAGE.replace(b"image", field.encode()), path=path)
    assert (found.status_code, found.is_json) == (413, True)


JSON, FORM = "application/json", "application/x-www-form-urlencoded"

#: Bodies of some 25 MB that are costly to parse or would fill an error's message; built when a test needs them.
COSTLY: dict[str, tuple[Callable[[], bytes], str]] = {
    "name": (lambda: b'{"' + b"n" * 25_000_000 + b'": 1}', JSON),
    "backquotes": (lambda: b'{"' + b"`" * 25_000_000 + b'": 1}', JSON),
    "value": (lambda: b'{"seed": "' + b"7" * 25_000_000 + b'"}', JSON),
    "number": (lambda: b'{"seed": ' + b"7" * 25_000_000 + b"}", JSON),
    "choice": (lambda: b'{"fit": "' + b"`" * 25_000_000 + b'"}', JSON),
    "formats": (lambda: b'{"formats": "' + b"," * 25_000_000 + b'"}', JSON),
    "lists": (lambda: b'{"a": [' + b"[]," * 8_000_000 + b"[]]}", JSON),
    "keys": (lambda: b"{" + b",".join(b'"k%d":0' % number for number in range(2_000_000)) + b"}", JSON),
    "levels": (lambda: b'{"seed":' * 2_000_000 + b"1" + b"}" * 2_000_000, JSON),
    "800 levels": (lambda: b'{"seed":' + b"[" * 800 + b"]" * 800 + b"}", JSON),
    "image in levels": (lambda: b'{"input_reference":' + b"[" * 800 + b"]" * 800 + b"}", JSON),
    "percent": (lambda: b'{"input_reference":"data:,' + b"%41" * 8_000_000 + b'"}', JSON),
    "fields": (lambda: b"a&" * 10_000_000, FORM),
    "one field": (lambda: b"a=" + b"%41" * 6_000_000, FORM),
    "few fields": (lambda: b"a=1&" * 50_000, FORM),
}


@pytest.mark.parametrize("case", COSTLY)
@pytest.mark.parametrize("path", ["/generate", "/v1/videos", "/v2beta/image-to-video"])
def test_a_costly_body_gets_a_quick_and_short_answer(http: FlaskClient, case: str, path: str) -> None:
    make, content_type = COSTLY[case]
    body = make()
    before, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = http.post(path, data=body, content_type=content_type)
    assert time.process_time() - before < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300_000  # kB
    assert (found.status_code in {400, 413, 415, 422}, found.is_json) == (True, True), found.text[:300]
    assert len(found.data) < 1_000


def test_a_deeply_nested_image_reference_is_parsed(http: FlaskClient) -> None:
    body = '{"input_reference":' + '{"image_url":' * 700 + '"x"' + "}" * 700 + "}"
    headers = {"X-Stainless-Retry-Count": "0", "Content-Type": "application/json"}
    assert http.post("/v1/videos", data=body, headers=headers).status_code in {400, 422}


def test_the_name_of_an_unknown_field_is_shortened(http: FlaskClient) -> None:
    found = http.post("/v1/videos", json={"n" * 1_000: 1})
    assert found.status_code == 422
    assert len(found.get_json()["error"]["message"]) < 100
    assert len(found.get_json()["error"]["param"]) < 100


# Numbers


@pytest.mark.parametrize("text", ["7", "+7", " 7 ", "7.0", "7.", "\t7\n", "007"])
def test_notations_of_an_integer_are_accepted(http: FlaskClient, jobs: UseCases, text: str) -> None:
    found = send(http, IMAGE, part('name="seed"', text.encode()))
    assert found.status_code == 202, found.text
    assert jobs.queries.find(found.get_json()["task_id"]).parameters.seed == 7


@pytest.mark.parametrize("text", ["7.5", "0x7", "７", "7,0", "+-7", "", "seven", "nan", "7" * 30])
def test_a_value_that_is_no_integer_is_rejected(http: FlaskClient, text: str) -> None:
    assert send(http, IMAGE, part('name="seed"', text.encode())).status_code == (422 if text else 202)


@pytest.mark.parametrize("text", ["0.5", "+0.5", ".5", " 5e-1 ", "5E-1"])
def test_notations_of_a_number_are_accepted(http: FlaskClient, jobs: UseCases, text: str) -> None:
    found = send(http, IMAGE, part('name="noise_aug_strength"', text.encode()))
    assert jobs.queries.find(found.get_json()["task_id"]).parameters.noise_aug_strength == 0.5


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "0,5", "1_0", "0.5.5"])
def test_a_value_that_is_no_number_is_rejected(http: FlaskClient, text: str) -> None:
    assert send(http, IMAGE, part('name="noise_aug_strength"', text.encode())).status_code == 422


def test_spaces_around_a_choice_and_a_plus_in_a_query_are_ignored(http: FlaskClient) -> None:
    assert send(http, IMAGE, part('name="fit"', b" pad ")).status_code == 202
    assert http.get("/jobs?limit=+7&order=asc").status_code == 200


@pytest.mark.parametrize(("value", "status"), [(7.0, 200), (7.5, 422), (True, 422), ("+7", 200), (1e300, 422)])
def test_json_numbers_are_accepted_or_rejected_by_type(http: FlaskClient, value: object, status: int) -> None:
    body = {"input_reference": {"image_url": DATA_URL}, "seed": value}
    assert http.post("/v1/videos", json=body).status_code == status


# Data URLs

BASE64 = base64.b64encode(PNG).decode()
DATA_URL = f"data:image/png;base64,{BASE64}"


@pytest.mark.parametrize(
    "url",
    [
        DATA_URL,
        f"data:;base64,{BASE64}",
        f"DATA:image/PNG;BASE64,{BASE64}",
        f"data:image/png; base64,{BASE64}",
        f"data:image/png;charset=utf-8;name=cat.png;base64,{BASE64}",
        f"  {DATA_URL}\n",
        f"data:image/png;base64,{BASE64.rstrip('=')}",
        "data:image/png;base64," + "\r\n".join(BASE64[at : at + 20] for at in range(0, len(BASE64), 20)),
        "data:image/png;base64," + " ".join(BASE64),
        f"data:image/png;base64,{quote(BASE64)}",
        "data:image/png;base64," + "".join(f"%{ord(letter):02x}" for letter in BASE64),
        "data:image/png;base64," + BASE64.replace("+", "-").replace("/", "_"),
        f"{DATA_URL}#fragment",
        f"data:image/png,{quote(PNG)}",
        f"data:,{quote(PNG)}",
    ],
)
def test_data_urls_are_parsed_as_browsers_do(http: FlaskClient, url: str) -> None:
    found = http.post("/v1/videos", json={"input_reference": {"image_url": url}})
    assert found.status_code == 200, found.text
    assert http.post("/v1/videos", data={"input_reference[image_url]": url}).status_code == 200


@pytest.mark.parametrize("data", ["A", "AAAAA", "AA=A", "AA!A", "é"])
def test_bad_base64_is_a_client_error(http: FlaskClient, data: str) -> None:
    found = http.post("/v1/videos", json={"input_reference": {"image_url": f"data:image/png;base64,{data}"}})
    assert (found.status_code, found.get_json()["error"]["param"]) == (422, "input_reference")


def test_a_long_percent_encoded_image_is_decoded_completely(http: FlaskClient) -> None:
    noise = io.BytesIO(PNG + bytes(range(256)) * 3_000)  # bytes after the end of a PNG are no part of it
    url = "data:," + quote(noise.getvalue())
    body = json.dumps({"input_reference": url})
    assert http.post("/v1/videos", data=body, content_type="application/json").status_code == 200


def test_a_large_form_waits_for_another_one_for_a_limited_time(http: FlaskClient) -> None:
    large = part('name="image"; filename="a.png"', PNG + bytes(2_000_000))
    with multipart._ONE_LARGE:
        began = time.monotonic()
        assert send(http, IMAGE).status_code == 202
        assert send(http, large).status_code == 202
        assert time.monotonic() - began > 1
    assert send(http, large).status_code == 202
    assert not multipart._ONE_LARGE.locked()
