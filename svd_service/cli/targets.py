"""Where videos are written, and in which format: the rules of `--out` and `--format`."""

from pathlib import Path
from typing import Final

import typer

from svd_service.client.client import FORMATS

_OUT: Final = "--out"


def target_for(name: str, out: Path, kind: str | None) -> tuple[Path, str]:
    """Return the file for the video called `name`, and its format.

    Raises:
        typer.BadParameter: the folder does not exist, or the file extension does not match the format.
    """
    if out.is_dir():
        kind = kind or FORMATS[0]
        return out / f"{name}.{kind}", kind
    if not out.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {out.parent}", param_hint=_OUT)
    return out, _format_of(out, kind)


def targets_in(names: list[str], out: Path, kind: str | None) -> list[tuple[Path, str]]:
    """Return a file for each of several videos in the folder `out`, which is created; equal names get different files.

    Raises:
        typer.BadParameter: `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise typer.BadParameter(f"{out} is not a folder, which several videos need", param_hint=_OUT)
    out.mkdir(parents=True, exist_ok=True)
    ending = kind or FORMATS[0]
    targets: list[Path] = []
    for name in names:
        target, number = out / f"{name}.{ending}", 1
        while target in targets:
            number += 1
            target = out / f"{name}-{number}.{ending}"
        targets.append(target)
    return [(target, ending) for target in targets]


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
