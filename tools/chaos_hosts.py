#!/usr/bin/env python3
"""Run the service on five hosts (network namespaces of this machine), pull their cables, count what got lost.

API, Redis, an S3 server and two workers are a host each, on a bridge; jobs flow over HTTP. First a worker's cable is
pulled in mid-job, then Redis', then the store's. The workers' model is a stand-in whose steps sleep. Nothing is left of
it afterwards, however it ends: namespaces, bridge and cables live as long as a process is in them. Exit status 1 if an
accepted job was lost or committed twice, or a host did not come back; 2 if the service could not be started; 3 if
this machine or user cannot make network namespaces.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from tools.chaos.ending import conclude
from tools.chaos.hosts import NoNetworksError, enter, hosts
from tools.chaos.links import passed, run, table

#: Marks a process that runs in its own namespace.
INSIDE = "SVD_CHAOS_INSIDE"


def main() -> int:
    """Run with the command line's options; returns the exit status."""
    options = _options()
    if INSIDE not in os.environ:
        _go_inside()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: with everything cleaned up
    folder = Path(tempfile.mkdtemp(prefix="svd-hosts-"))

    def measure() -> dict[str, Any]:
        with hosts(folder, options.lease) as made:
            _say("five hosts are up")
            return run(made, jobs=options.jobs, seed=options.seed, seconds=options.cut, lease=options.lease, say=_say)

    return conclude(measure, table=table, passed=passed, folder=folder, file=options.json, keep=options.keep)


def _go_inside() -> NoReturn:
    """The same once more, in a network namespace of its own."""
    # Inside the namespace, this machine's proxy is not reachable.
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    try:
        command = enter((sys.executable, "-m", "tools.chaos_hosts", *sys.argv[1:]))
    except NoNetworksError as error:
        print(
            "this needs network namespaces: root (CAP_SYS_ADMIN, CAP_NET_ADMIN) or user namespaces for everybody, and "
            f"the programs ip, unshare, nsenter and setpriv. What failed: {error}",
            file=sys.stderr,
        )
        sys.exit(3)
    os.execvpe(command[0], command, environment | {INSIDE: "1"})  # noqa: S606 - no shell is wanted


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=50, help="jobs to submit at least; until the faults are over (50)")
    parser.add_argument("--seed", type=int, default=1, help="of the jobs (1)")
    parser.add_argument("--cut", type=float, default=20.0, metavar="SECONDS", help="for which a cable is pulled (20)")
    parser.add_argument("--lease", type=float, default=10.0, metavar="SECONDS", help="SVD_LEASE (10, the default)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--keep", action="store_true", help="keep data and logs, which otherwise only a failure does")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
