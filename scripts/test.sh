#!/usr/bin/env bash
# Create the environment, install, run the static checks and the tests.
#
# usage: scripts/test.sh [--thorough]            everything; --thorough adds the long tests (chaos, fuzzing, state machines)
#        scripts/test.sh --checks                the static checks alone
#        scripts/test.sh PYTEST ARGUMENTS        only these tests, without checks and coverage
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh

ensure_environment test
marked=(-m 'not thorough')
case ${1:-} in
  '') ;;
  --checks) exec scripts/check.sh ;;
  --thorough)
    [ $# = 1 ] || die "--thorough takes no further arguments."
    marked=()
    ;;
  *) exec .venv/bin/python -m pytest "$@" ;;
esac
scripts/check.sh

# Unit tests keep a core busy; tests of whole services mostly wait, for steps, leases and each other. So both run at once,
# the unit tests in one process on one core and with lower priority. Their output comes last.
unit=(tests/unit tests/contracts)
output=$(mktemp)
trap 'rm -f "$output"' EXIT
# Coverage is required for the packages that determine the outcome of a job.
OMP_NUM_THREADS=1 nice -n 5 .venv/bin/python -m pytest "${unit[@]}" "${marked[@]}" -p no:cacheprovider \
  --cov=svd_service.jobs --cov=svd_service.ledger --cov=svd_service.api --cov-fail-under=90 >"$output" 2>&1 &
unit_tests=$!

status=0
.venv/bin/python -m pytest "${unit[@]/#/--ignore=}" "${marked[@]}" || status=$?
wait "$unit_tests" || status=$?
cat "$output"
exit "$status"
