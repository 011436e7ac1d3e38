"""Chromium plays and shows files with Content Credentials."""

import base64
from collections.abc import Mapping
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from svd_service.jobs.job import ResultFile, Still
from svd_service.jobs.marks import TYPES, library_type
from svd_service.marking import chain
from svd_service.marking.signer import Claims, Signer
from svd_service.parameters import Format
from tests.unit.marking.samples import FRAMES, SIZE, make_files

#: Resolves to the width and the duration of the element's file once that can be shown.
LOADED = """
(element) => new Promise((resolve, reject) => {
  element.onerror = () => reject(new Error("the file cannot be shown"));
  const done = () => resolve([element.videoWidth ?? element.naturalWidth, element.duration ?? 0]);
  if (element.tagName === "IMG" ? element.complete && element.naturalWidth : element.readyState >= 3) done();
  element.onload = element.oncanplaythrough = done;
})
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[ResultFile, bytes]:
    return make_files(Path(tmp_path_factory.mktemp("files")))


@pytest.mark.parametrize("kind", [Format.MP4, Format.WEBP, Format.GIF, Still.THUMBNAIL])
def test_chromium_shows_a_signed_file(browser: Browser, files: Mapping[ResultFile, bytes], kind: ResultFile) -> None:
    signed = Signer(chain.make()).sign(files[kind], library_type(kind), Claims("0" * 36, "nano"))
    address = f"data:{TYPES[kind]};base64,{base64.b64encode(signed).decode()}"
    tag = "video muted preload=auto" if kind is Format.MP4 else "img"
    page = browser.new_page()
    page.set_content(f"<{tag} id=file src='{address}'>")
    width, duration = page.locator("#file").evaluate(LOADED)
    page.close()
    assert width == SIZE[0]
    if kind is Format.MP4:
        assert duration == pytest.approx(FRAMES / 7, abs=0.01)
