# shellcheck shell=bash
# Sourced by the other scripts: a virtual environment in .venv with what they need, made or brought up to date.

say() { printf '%s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

# The first Python on the PATH that is new enough and can make virtual environments.
find_python() {
  local candidate
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  die "There is no Python 3.11 or newer with the venv module here (on Debian and Ubuntu: apt install python3 python3-venv)."
}

# ensure_environment EXTRA: .venv has this checkout with EXTRA. Does nothing when that was done since pyproject.toml last
# changed; the stamp also names the folder, since an environment that was moved does not work.
ensure_environment() {
  local extra=$1 stamp=.venv/.installed-$1 now
  now="$(cksum <pyproject.toml) $PWD"
  if [ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null; then
    [ "$(cat "$stamp" 2>/dev/null)" != "$now" ] || return 0
  else
    local python
    python=$(find_python) || exit 1
    say "Making a virtual environment in .venv with $("$python" --version) …"
    "$python" -m venv --clear .venv
  fi
  say "Installing svd-service[$extra] into .venv (the first time, this downloads PyTorch) …"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extra]" ||
    die "The installation failed; what pip says is above."
  printf '%s\n' "$now" >"$stamp"
}
