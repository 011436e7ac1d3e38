#!/usr/bin/env bash
# From nothing to green: makes .venv if there is none, installs, checks, tests.
#
# usage: scripts/test.sh [PYTEST'S ARGUMENTS]      with arguments, neither checks nor coverage: just these tests
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh

ensure_environment test
if [ $# -gt 0 ]; then
  exec .venv/bin/python -m pytest "$@"
fi
scripts/check.sh

# What stays in pytest's own process keeps one core busy; whole services mostly wait, for steps, leases and each other. So
# the two run side by side, the first on one core and as one who gives way; what it has to say comes last.
alone=(tests/unit tests/contracts)
said=$(mktemp)
trap 'rm -f "$said"' EXIT
# Coverage is of the two rooms that decide what becomes of a job; the others' tests are judged by eye.
OMP_NUM_THREADS=1 nice -n 5 .venv/bin/python -m pytest "${alone[@]}" -p no:cacheprovider \
  --cov=svd_service.jobs --cov=svd_service.api --cov-fail-under=90 >"$said" 2>&1 &
beside=$!

status=0
.venv/bin/python -m pytest "${alone[@]/#/--ignore=}" || status=$?
wait "$beside" || status=$?
cat "$said"
exit "$status"
