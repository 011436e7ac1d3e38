from importlib import resources

import pytest

PAGE = resources.files("svd_service.api.ops") / "static" / "page"
FILES = sorted(file.name for file in PAGE.iterdir())
TEXTS = [name for name in FILES if name.endswith((".js", ".css", ".html", ".svg"))]


def test_the_page_is_html_whose_policy_allows_its_own_scripts_only(http):
    answer = http.get("/", buffered=True)
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert {name for name in policy if name.startswith(("script", "style", "connect"))} == set()
    assert (policy["base-uri"], policy["object-src"], policy["frame-ancestors"]) == ("'none'",) * 3
    assert "unsafe" not in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in FILES)])
def test_every_file_is_revalidated_and_sent_only_if_it_changed(http, path):
    first = http.get(path, buffered=True)
    assert first.status_code == 200
    assert first.headers["Cache-Control"] == "no-cache"
    assert first.headers["X-Content-Type-Options"] == "nosniff"
    assert first.headers["Referrer-Policy"] == "no-referrer"
    second = http.get(path, headers={"If-None-Match": first.headers["ETag"]}, buffered=True)
    assert (second.status_code, second.data) == (304, b"")


@pytest.mark.parametrize("name", FILES)
def test_every_file_has_the_content_type_that_browsers_require(http, name):
    kinds = {
        "js": {"text/javascript", "application/javascript"},
        "css": {"text/css"},
        "svg": {"image/svg+xml"},
        "html": {"text/html"},
        "jpg": {"image/jpeg"},
        "mp4": {"video/mp4"},
    }
    assert http.get(f"/page/{name}", buffered=True).mimetype in kinds[name.rpartition(".")[2]]


def assert_not_found(answer):
    assert answer.status_code == 404
    assert answer.json["error"]["code"] == "not_found"


@pytest.mark.parametrize("path", ["/page/", "/page/none.js"])
def test_other_paths_are_404(http, path):
    assert_not_found(http.get(path))


@pytest.mark.parametrize("outside", ["../operator/index.html", "../../page.py"])
def test_files_outside_of_the_folder_are_404(http, outside):
    assert (PAGE / outside).is_file()
    assert_not_found(http.get(f"/page/{outside}"))
    assert_not_found(http.get(f"/page/{outside.replace('.', '%2e')}"))


def test_no_file_names_another_host_or_writes_markup():
    for name in TEXTS:
        text = (PAGE / name).read_text()
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", ""), name
        assert not [word for word in ("innerHTML", "eval(", "style=", "onclick") if word in text], name
