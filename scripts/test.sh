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
# The two rooms that decide what becomes of a job; the others' tests are judged by eye.
exec .venv/bin/python -m pytest --cov=svd_service.jobs --cov=svd_service.api --cov-fail-under=90
