#!/usr/bin/env bash
# Check the locked versions against the database of known vulnerabilities.
#
# usage: scripts/audit.sh      exit status 1 if a version has a known vulnerability; 0, with a warning, if no database was reachable
set -euo pipefail
# shellcheck source=scripts/usage.sh
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
show_usage "${1:-}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$(find_python)" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check pip-audit
status=0
# --strict: a package that could not be looked up is an error, not a package without vulnerabilities.
"$scratch/venv/bin/pip-audit" --strict --disable-pip --require-hashes --requirement requirements/test.txt \
  >"$scratch/out" 2>&1 || status=$?
cat "$scratch/out"
if [ "$status" != 0 ] && grep -qiE 'could not be audited|connection|resolve|timed out|proxy|unreachable|403|max retries' "$scratch/out"; then
  say "WARNING: cannot reach a vulnerability database; nothing was audited."
  exit 0
fi
exit "$status"
