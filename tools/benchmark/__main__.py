#!/usr/bin/env python3
"""Four benchmarks of the service on your machine. Each prints tables and writes all figures as JSON.

usage: python -m tools.benchmark calls    the service over HTTP against bare calls of the pipeline, alternating
       python -m tools.benchmark device   the model on a device: phases, share of the limit, memory, each optimization
       python -m tools.benchmark costs    submit, status and place in the queue with 10, 1,000 and 100,000 queued jobs
       python -m tools.benchmark hostile  submit and status during uploads that are expensive to parse

`--help` after each lists its options. The exit status is 0 when it ran; 1 when a target is missed and `--bars` is set;
2 when the output is invalid (not finite, constant, different frames), which makes all figures invalid.
docs/performance.md has results.
"""

import argparse
import importlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tools.benchmark.report import BenchmarkError, kept

#: PYTHONPATH makes all processes use this checkout, whatever else is installed.
_ROOT = str(Path(__file__).resolve().parents[2])
# The worker sets this, too: threads that spin while waiting cost more than they gain if other processes are busy.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH"))))


def main() -> int:
    """Run the requested benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="calls|device|costs|hostile")
    modules: dict[str, Any] = {}
    for kind in ("calls", "device", "costs", "hostile"):
        if kind not in sys.argv[1:2]:
            kinds.add_parser(kind)  # import only the requested benchmark, since torch takes seconds
            continue
        modules[kind] = importlib.import_module(f"tools.benchmark.{kind}")
        one = kinds.add_parser(kind, description=modules[kind].__doc__)
        modules[kind].add_arguments(one)
        one.add_argument("--json", type=Path, help=f"file of all figures (benchmark-{kind}.json)")
        one.add_argument("--bars", action="store_true", help="exit with 1 if a target is missed")
    options = parser.parse_args()
    # Signals raise exceptions, so that the started processes are stopped and the figures so far are saved.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    result: dict[str, Any] = {"benchmark": options.kind, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    try:
        options.json = options.json or Path(f"benchmark-{options.kind}.json")
        with kept(options.json, result):
            held = modules[options.kind].run(options, result)
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    return int(options.bars and not held)


if __name__ == "__main__":
    sys.exit(main())
