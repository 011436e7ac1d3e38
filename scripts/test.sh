#!/usr/bin/env bash
# Create the environment, install, run the static checks and the tests.
#
# usage: scripts/test.sh [--thorough]            everything; --thorough adds the long tests (chaos, fuzzing, state machines)
#        scripts/test.sh --checks                only the static checks
#        scripts/test.sh PYTEST ARGUMENTS        only these tests, without checks and coverage
set -euo pipefail
# shellcheck source=scripts/usage.sh
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
show_usage "${1:-}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh

ensure_environment test
marked=(-m 'not thorough')
coverage=()
case ${1:-} in
  '') ;;
  --checks) exec scripts/check.sh ;;
  --thorough)
    [ $# = 1 ] || die "--thorough takes no further arguments."
    marked=()
    # Coverage is required for the packages that determine the outcome of a job. Tracing them takes 60 % more processor
    # time on Python 3.11.
    coverage=(--cov=svd_service.jobs --cov=svd_service.ledger --cov=svd_service.api --cov-report=)
    ;;
  *) exec .venv/bin/python -m pytest "$@" ;;
esac
# Tests of the model keep a core busy; the others mostly wait, for steps, leases and each other. So six processes run at
# once beside the static checks, and end at about the same time. The clients, which are with the service, alone use
# pytest's cache. The ledger's state machine, the longest unit test, is with the browser, where coverage does not slow it
# down threefold.
lanes=() processes=()
lane() { # lane NAME PYTEST ARGUMENTS…: run pytest in the background; its output and exit status go to files
  local name=$1
  shift
  : >"$outputs/$name" # the background process may open it after `follow` does
  set -m # without job control, a background process ignores SIGINT
  {
    local status=0
    # Before version 4.4 (macOS has 3.2), bash rejects an empty array as an unset variable.
    OMP_NUM_THREADS=1 COVERAGE_FILE=$outputs/coverage.$name \
      .venv/bin/python -m pytest "$@" ${marked[@]+"${marked[@]}"} >"$outputs/$name" 2>&1 || status=$?
    echo "$status" >"$outputs/$name.status"
  } &
  set +m
  lanes+=("$name")
  processes+=($!)
}
follow() { # follow PROCESS NAME: print the lane's output until it has ended; return its exit status
  local ended=''
  while [ -z "$ended" ]; do
    sleep 0.2
    # Before the rest is read, which would otherwise lack what the process writes in between.
    if [ -s "$outputs/$2.status" ] || ! kill -0 "$1" 2>/dev/null; then ended=yes; fi
    cat
  done <"$outputs/$2"
  # `wait` would not do: once another process has had the same number, as happens within minutes, bash has forgotten
  # the status. There is no file if the lane was killed.
  return "$(cat "$outputs/$2.status" || echo 1)"
}
# shellcheck disable=SC2329 # the trap calls it
finish() { # at SIGINT, as after Ctrl-C, pytest stops what the tests have started
  # Python drops an interrupt that arrives in a destructor, so it is repeated.
  while [ ${#processes[@]} -gt 0 ] && kill -INT -- "${processes[@]/#/-}" 2>/dev/null; do
    for _ in $(seq 120); do
      [ -n "$(jobs -rp)" ] || break 2
      sleep 0.5
    done
  done
  wait
  rm -rf "$outputs"
}
outputs=$(mktemp -d)
trap finish EXIT
# Without a trap, bash ignores an interrupt if the command that it waits for ends by itself just then.
trap 'exit 130' INT
export SVD_TEST_SHARED=$outputs
status=0
readonly state_machine=tests/unit/ledger/test_state_machine.py
readonly faults=tests/integration/faults installation=tests/integration/installation
models=(tests/unit/video tests/unit/tools)
elsewhere=(tests/unit/api tests/unit/cli "${models[@]}" "$state_machine")
lane service tests/integration --ignore="$faults" --ignore="$installation"
lane faults "$faults" tests/unit/cli -p no:cacheprovider
lane browser tests/browser tests/chaos "$state_machine" -p no:cacheprovider
lane models "${models[@]}" -p no:cacheprovider
lane api tests/unit/api "$installation" -p no:cacheprovider ${coverage[@]+"${coverage[@]}"}
lane unit tests/unit tests/contracts "${elsewhere[@]/#/--ignore=}" -p no:cacheprovider ${coverage[@]+"${coverage[@]}"}
scripts/check.sh
for index in "${!lanes[@]}"; do
  follow "${processes[$index]}" "${lanes[$index]}" || status=$?
  unset "processes[$index]"
done
if [ ${#coverage[@]} -gt 0 ]; then
  export COVERAGE_FILE=$outputs/coverage
  if ! { .venv/bin/python -m coverage combine --quiet "$COVERAGE_FILE".{api,unit} &&
    .venv/bin/python -m coverage report --fail-under=90; }; then
    status=1
  fi
fi
exit "$status"
