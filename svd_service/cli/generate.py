"""The command `svd-service generate`, which generates videos.

Results go to standard output, progress and errors to standard error.
"""

import json
import shlex
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Self, Unpack

import typer
from rich.console import Console
from rich.text import Text

from svd_service.cli.display import Display, display_on, explained
from svd_service.cli.image_job import ImageJob, Submission
from svd_service.cli.options import DEFAULT_SERVER, ApiKey, AsJson, Server, takes_parameters
from svd_service.cli.targets import target_for, targets_in
from svd_service.client.client import FORMATS, Client
from svd_service.client.errors import ClientError
from svd_service.parameters import MAX_GROUP, Format, RequestParameters

_POLL_EVERY = 0.5  # seconds

#: After Ctrl-C, seconds without data after which an unanswered submission is not waited for.
_HASTY: Final = 10.0

_ENDINGS = ", ".join(f".{each}" for each in Format)


@takes_parameters(without=("formats", "webhook_url"), after="kind")
def generate(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE...", exists=True, dir_okay=False, readable=True, show_default=False),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="OUT", help=f"The video's file ({_ENDINGS}), which is replaced, or a folder."
        ),
    ] = Path(),
    kind: Annotated[
        Format | None,
        typer.Option("--format", help="File format of the video. Default: what OUT ends in, else mp4."),
    ] = None,
    number: Annotated[int, typer.Option("--n", "-n", min=1, max=MAX_GROUP, help="Number of videos of each image.")] = 1,
    seeds: Annotated[str | None, typer.Option(metavar="SEEDS", help="A video for each of these seeds: 1,2,3.")] = None,
    cancel_after: Annotated[
        int | None,
        typer.Option(min=1, metavar="SECONDS", help="Let jobs fail that have not ended after so many seconds."),
    ] = None,
    open_videos: Annotated[bool, typer.Option("--open", help="Open the videos when all are finished.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    **parameters: Unpack[RequestParameters],
) -> None:
    """Generate a video of each IMAGE, or several, or extend the video of a job. Ctrl-C cancels the jobs.

    Omitted options have the model's defaults, or with --extend the values of that job.
    """
    extend = parameters.get("extend")
    if bool(images) == bool(extend):
        raise typer.BadParameter("give either IMAGE or --extend ID", param_hint="IMAGE")
    variants = _Variants.of(number, seeds, extend)
    sources: list[Path | str] = [str(extend)] if extend else [*(images or ())]
    image_jobs = _image_jobs(sources, variants, out, kind and str(kind))
    parameters["formats"] = sorted({image_job.kind for image_job in image_jobs} - {FORMATS[0]}) or None
    submissions = _submissions(image_jobs, variants, parameters, cancel_after)
    terminal = Console(stderr=True)
    exit_status = 0
    with Client(server, api_key) as client:
        # Report an unreachable service at once, not after the client's retries.
        _warn(terminal, client.health())
        try:
            with display_on(terminal, _names(image_jobs, variants)) as display:
                _submit(client, submissions, display)
                _follow(client, image_jobs, display)
        except KeyboardInterrupt:
            exit_status = 130
            _complain(terminal, "Cancelling; press Ctrl-C again to leave the jobs running.")
            with suppress(KeyboardInterrupt), Client(server, api_key, timeout=_HASTY, patience=0) as hasty:
                _cancel(client, image_jobs)
                _cancel_unanswered(hasty, submissions)
        except ClientError as error:
            _complain(terminal, explained(error))
            exit_status = 1
    _print_results(image_jobs, as_json=as_json, open_videos=open_videos)
    _explain(terminal, image_jobs, server)
    if exit_status == 130:
        _explain_unanswered(terminal, submissions, server)
    raise typer.Exit(exit_status or int(any(image_job.error for image_job in image_jobs)))


def _print_results(image_jobs: list[ImageJob], *, as_json: bool, open_videos: bool) -> None:
    made = [image_job for image_job in image_jobs if image_job.done and image_job.error is None]
    if as_json:
        typer.echo(json.dumps([image_job.to_dict() for image_job in image_jobs]))
    else:
        for image_job in made:
            typer.echo(f"{image_job.source} → {image_job.target}")
    if open_videos:
        for image_job in made:
            typer.launch(str(image_job.target))


@dataclass(frozen=True)
class _Variants:
    """The videos of one image: `number` of them, with the `seeds` if any are given."""

    number: int
    seeds: list[int] | None

    @classmethod
    def of(cls, number: int, seeds: str | None, extend: str | None) -> Self:
        """Parse the options."""
        if extend and (number > 1 or seeds):
            raise typer.BadParameter("makes one video: give neither -n nor --seeds", param_hint="--extend")
        if seeds is None:
            return cls(number, None)
        listed = [each.strip() for each in seeds.split(",")]
        if not all(each.isdecimal() for each in listed) or number not in {1, len(listed)}:
            raise typer.BadParameter("needs whole numbers separated by commas, as many as --n", param_hint="--seeds")
        return cls(len(listed), [int(each) for each in listed])

    def names(self, names: list[str]) -> list[str]:
        """The names of all videos of the images called `names`."""
        if self.number == 1:
            return names
        marks = self.seeds or range(1, self.number + 1)
        return [f"{name}-{mark}" for name in names for mark in marks]


def _names(image_jobs: list[ImageJob], variants: _Variants) -> list[str]:
    return variants.names([image_job.name for image_job in image_jobs[:: variants.number]])


def _image_jobs(sources: list[Path | str], variants: _Variants, out: Path, kind: str | None) -> list[ImageJob]:
    repeated = [source for source in sources for _ in range(variants.number)]
    targets = _targets(sources, variants, out, kind)
    return [ImageJob(source, *target) for source, target in zip(repeated, targets, strict=True)]


def _targets(sources: list[Path | str], variants: _Variants, out: Path, kind: str | None) -> list[tuple[Path, str]]:
    names = variants.names([source if isinstance(source, str) else source.stem for source in sources])
    images = [source for source in sources if isinstance(source, Path)]
    return [target_for(names[0], out, kind, images)] if len(names) == 1 else targets_in(names, out, kind, images)


def _submissions(
    image_jobs: list[ImageJob], variants: _Variants, parameters: RequestParameters, cancel_after: int | None
) -> list[Submission]:
    number, seeds = variants.number, variants.seeds
    of_images = [image_jobs[start : start + number] for start in range(0, len(image_jobs), number)]
    is_group = number > 1 or seeds is not None
    return [Submission(of_image, parameters, cancel_after, is_group, seeds) for of_image in of_images]


def _submit(client: Client, submissions: list[Submission], display: Display) -> None:
    index = 0
    for submission in submissions:
        submission.send(client)
        for image_job in submission.image_jobs:
            display.show(index, image_job.fraction, image_job.words, ended=image_job.done)
            index += 1


def _follow(client: Client, image_jobs: list[ImageJob], display: Display) -> None:
    while not all(image_job.done for image_job in image_jobs):
        time.sleep(_POLL_EVERY)
        for index, image_job in enumerate(image_jobs):
            if not image_job.done:
                image_job.look(client)
                display.show(index, image_job.fraction, image_job.words, ended=image_job.done)


def _warn(terminal: Console, health: dict[str, Any]) -> None:
    """Print a warning if the service is not healthy or no worker is ready."""
    if health["status"] != "ok":
        _complain(terminal, f"The service is {health['status']}: {health.get('message') or 'no reason given'}")
    elif health.get("workers_ready") == 0:
        _complain(terminal, "No worker is ready yet: jobs wait until one is.")


def _cancel(client: Client, image_jobs: list[ImageJob]) -> None:
    """Cancel the jobs that have not ended; another Ctrl-C leaves the rest running."""
    with suppress(ClientError):
        for image_job in image_jobs:
            image_job.cancel(client)


def _cancel_unanswered(client: Client, submissions: list[Submission]) -> None:
    """Cancel the jobs of a submission that Ctrl-C interrupted before its response came."""
    for submission in submissions:
        with suppress(ClientError, OSError):
            submission.cancel_unanswered(client)


def _explain_unanswered(terminal: Console, submissions: list[Submission], server: str) -> None:
    for submission in submissions:
        if submission.is_unanswered:
            listing = f"svd-service list --server {shlex.quote(server)}"
            source = submission.image_jobs[0].source
            _complain(terminal, f"{source}: its submission was interrupted, and a job may exist. To see: {listing}")


def _explain(terminal: Console, image_jobs: list[ImageJob], server: str) -> None:
    """Print each error, and how to get the videos of jobs that continue, or have finished without a file."""
    for image_job in image_jobs:
        if image_job.error:
            _complain(terminal, f"{image_job.source}: {image_job.error}")
        if command := image_job.download_command:
            state = "its job has finished" if image_job.done else "its job is not cancelled"
            later = f"{command} --server {shlex.quote(server)}"
            _complain(terminal, f"{image_job.source}: {state}. To get the video later: {later}")
    if any(image_job.job and not image_job.job.trained for image_job in image_jobs):
        _complain(terminal, "The service's model has untrained weights: its videos are noise.")


def _complain(terminal: Console, words: str) -> None:
    terminal.print(Text(words, style="yellow"), soft_wrap=True)
