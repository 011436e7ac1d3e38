#!/usr/bin/env python3
"""Run the service on five hosts (network namespaces of this machine), cut their links, count lost jobs.

API, Redis, an S3 server and two workers each have their own host, on a bridge; jobs are submitted over HTTP. First a
worker's link is cut during a job, then Redis', then the store's. The workers' model is a stand-in whose steps sleep.
Nothing remains afterwards, however the run ends: namespaces, bridge and links disappear with their last process. Exit
status 1 if an accepted job was lost or committed twice, or a host did not recover; 2 if the service did not start; 3 if
this machine or user cannot create network namespaces.
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

#: Environment variable of a process that runs in its own namespace.
INSIDE = "SVD_CHAOS_INSIDE"


def main() -> int:
    """Run with the command line's options, and return the exit status."""
    options = _options()
    if INSIDE not in os.environ:
        _restart_in_namespace()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM cleans up like Ctrl-C
    folder = Path(tempfile.mkdtemp(prefix="svd-hosts-"))

    def measure() -> dict[str, Any]:
        with hosts(folder, options.lease) as started:
            _say("five hosts are up")
            return run(
                started, jobs=options.jobs, seed=options.seed, seconds=options.cut, lease=options.lease, say=_say
            )

    return conclude(measure, table=table, passed=passed, folder=folder, file=options.json, keep=options.keep)


def _restart_in_namespace() -> NoReturn:
    """Replace this process by the same command in its own network namespace."""
    # The proxies of this machine are unreachable from the namespace.
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    try:
        command = enter((sys.executable, "-m", "tools.chaos_hosts", *sys.argv[1:]))
    except NoNetworksError as error:
        print(
            "cannot create network namespaces; this requires root (CAP_SYS_ADMIN, CAP_NET_ADMIN) or unprivileged user "
            f"namespaces, and the programs ip, unshare, nsenter and setpriv: {error}",
            file=sys.stderr,
        )
        sys.exit(3)
    os.execvpe(command[0], command, environment | {INSIDE: "1"})  # noqa: S606 - no shell is wanted


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=50, help="minimum number of jobs to submit (50)")
    parser.add_argument("--seed", type=int, default=1, help="random seed of the jobs (1)")
    parser.add_argument("--cut", type=float, default=20.0, metavar="SECONDS", help="duration of each cut (20)")
    parser.add_argument("--lease", type=float, default=10.0, metavar="SECONDS", help="SVD_LEASE (10, the default)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--keep", action="store_true", help="keep data and logs even if the run succeeds")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
