"""Where videos are written, and in which format: the rules of `--out` and `--format`."""

import os
import tempfile
import unicodedata
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import typer

from svd_service.client.client import FORMATS

_OUT: Final = "--out"


def target_for(
    name: str, out: Path, kind: str | None, images: Collection[Path] = (), *, may_replace: bool = False
) -> tuple[Path, str]:
    """Return the file for the video called `name`, and its format. It is none of the `images`.

    In a folder, it exists only if it `may_replace` a file; an `out` that names a file is always replaced.

    Raises:
        typer.BadParameter: the folder does not exist or cannot be written, the file extension does not match the
            format, or `out` is one of the `images`.
    """
    with _named_errors(out):
        if out.is_dir():
            _require_writable(out)
            kind = kind or FORMATS[0]
            return _free(out, name, kind, images, may_replace=may_replace), kind
        if not out.parent.is_dir():
            raise typer.BadParameter(f"there is no folder {out.parent}", param_hint=_OUT)
        if _is_one_of(out, images):
            raise typer.BadParameter(f"{out} is the image; name another file for the video", param_hint=_OUT)
        form = _format_of(out, kind)
        _require_writable(out.parent)
        return out, form


def targets_in(names: list[str], out: Path, kind: str | None, images: Collection[Path] = ()) -> list[tuple[Path, str]]:
    """Return a file for each of several videos in the folder `out`, which is created; equal names get different files.

    None of them exists.

    Raises:
        typer.BadParameter: `out` is a file, or cannot be created or written.
    """
    with _named_errors(out):
        if out.exists() and not out.is_dir():
            raise typer.BadParameter(f"{out} is not a folder, which several videos need", param_hint=_OUT)
        out.mkdir(parents=True, exist_ok=True)
        _require_writable(out)
    ending = kind or FORMATS[0]
    targets: list[Path] = []
    for name in names:
        targets.append(_free(out, name, ending, images, targets))
    return [(target, ending) for target in targets]


@contextmanager
def _named_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise typer.BadParameter(f"{out}: {error.strerror}", param_hint=_OUT) from error


def _require_writable(folder: Path) -> None:
    """Check that a file can be created in the folder, before a video is made for it.

    Raises:
        typer.BadParameter: it cannot.
    """
    try:
        # os.access does not know of every file system's rules, and root passes it everywhere.
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise typer.BadParameter(f"cannot write to {folder}: {error.strerror}", param_hint=_OUT) from error


def _free(
    folder: Path,
    name: str,
    ending: str,
    images: Collection[Path],
    taken: Collection[Path] = (),
    *,
    may_replace: bool = False,
) -> Path:
    """Return a file called `name`, numbered where that exists, is one of the `images` or is `taken`."""
    names = set(map(_compared, taken))
    target, number = folder / f"{name}.{ending}", 1
    while _compared(target) in names or (not may_replace and os.path.lexists(target)) or _is_one_of(target, images):
        number += 1
        target = folder / f"{name}-{number}.{ending}"
    return target


def _compared(target: Path) -> str:
    """Return what two names of one file have in common where the file system ignores case and normalization."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", target.name).casefold())


def _is_one_of(target: Path, images: Collection[Path]) -> bool:
    # Not by the paths: links, and file systems that ignore case, give one file several.
    try:
        return any(map(target.samefile, images))
    except FileNotFoundError:
        return False
    except OSError as error:  # such as a name that is too long, reported before a video is made for it
        raise typer.BadParameter(f"{target}: {error.strerror}", param_hint=_OUT) from error


def _format_of(out: Path, kind: str | None) -> str:
    ending = out.suffix.lower().removeprefix(".")
    known = ", ".join(f".{each}" for each in FORMATS)
    if not ending and kind is None:
        raise typer.BadParameter(f"{out} is no folder, and has no ending: one of {known}", param_hint=_OUT)
    if ending and ending not in FORMATS:
        raise typer.BadParameter(f"{out}: cannot write .{ending} files; use one of {known}", param_hint=_OUT)
    if kind and ending and ending != kind:
        raise typer.BadParameter(f"{out} does not end in .{kind}, as --format {kind} needs", param_hint=_OUT)
    return kind or ending
