#!/usr/bin/env python3
"""Submit jobs to a real service on loopback while its processes are killed, frozen and disconnected; count lost jobs.

Starts a Redis with an append-only file, the API and two workers with a toy model, in a temporary folder; ends only the
processes that it started. The same seed gives the same faults at the same times. Exit status 1 if an accepted job was
lost or committed twice, 2 if the service could not be started.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.chaos.ending import conclude
from tools.chaos.report import passed, report, table
from tools.chaos.run import run
from tools.chaos.schedule import DEFAULT_KINDS, KINDS
from tools.chaos.service import Service
from tools.harness.local import ROOT


def main() -> int:
    """Run with the command line's options, and return the exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM cleans up like Ctrl-C
    folder = Path(tempfile.mkdtemp(prefix="svd-chaos-"))
    model = folder / "model"
    service = Service(folder, model)

    def measure() -> dict[str, Any]:
        build = "import sys, pathlib; from tools.harness.tiny_model import build; build(pathlib.Path(sys.argv[1]))"
        try:
            subprocess.run([sys.executable, "-c", build, model], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
            outcome = run(
                service,
                jobs=options.jobs,
                seed=options.seed,
                interval=options.fault_interval,
                kinds=options.faults,
                limit=options.limit or 60 + 4 * options.jobs,
            )
            return report(outcome)
        finally:
            service.stop()

    return conclude(measure, table=table, passed=passed, folder=folder, file=options.json, keep=options.keep)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=50, help="jobs to submit (50)")
    parser.add_argument("--seed", type=int, default=1, help="random seed of faults and jobs (1)")
    parser.add_argument(
        "--fault-interval", type=float, default=3.0, metavar="SECONDS", help="mean time between faults (3)"
    )
    parser.add_argument(
        "--faults",
        type=_kinds,
        default=list(DEFAULT_KINDS),
        metavar="LIST",
        help=f"kinds of faults, of {','.join(KINDS)}; by default all but job-delete",
    )
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="maximum time for submitting (60 + 4 per job)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--keep", action="store_true", help="keep data and logs even if the run succeeds")
    return parser.parse_args()


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    if unknown := set(kinds) - set(KINDS):
        raise argparse.ArgumentTypeError(f"unknown faults: {', '.join(sorted(unknown))}")
    return kinds


if __name__ == "__main__":
    sys.exit(main())
