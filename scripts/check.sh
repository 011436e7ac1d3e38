#!/usr/bin/env bash
# Run the static checks; the same for developers, pre-commit and CI.
#
# usage: scripts/check.sh [--fix]      --fix: apply ruff's fixes
set -euo pipefail
# shellcheck source=scripts/usage.sh
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
show_usage "${1:-}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -d .venv/bin ]; then
  PATH=$PWD/.venv/bin:$PATH
fi

failed=()
check() {
  local name=$1 output
  shift
  printf '%-8s' "$name" >&2
  if output=$("$@" 2>&1); then
    printf 'ok\n' >&2
  else
    printf 'FAILED: %s\n%s\n' "$*" "$output" >&2
    failed+=("$name")
  fi
}

if [ "${1:-}" = --fix ]; then
  ruff check --quiet --fix || true
  ruff format --quiet
fi
check lint ruff check
check format ruff format --check
check types mypy
check walls lint-imports --no-logo
check lua python -m tools.lint_lua
check shell shellcheck --external-sources scripts/*.sh tools/*/*.sh docker/*.sh .ci/run
if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[*]}" >&2
  exit 1
fi
