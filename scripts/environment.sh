# shellcheck shell=bash
# Sourced by the other scripts: creates or updates the virtual environment .venv.

say() { printf '%s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

# Print the first Python on the PATH that is new enough and has the venv module.
find_python() {
  local candidate
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  die "Found no Python 3.11 or newer with the venv module (on Debian and Ubuntu: apt install python3 python3-venv)."
}

# ensure_environment EXTRA: .venv has this checkout with EXTRA, in the versions of requirements/. Does nothing when that was
# done since pyproject.toml or the versions last changed; the stamp also names the folder, since an environment that was
# moved does not work.
ensure_environment() {
  local extra=$1 stamp=.venv/.installed-$1 now
  now="$(cat pyproject.toml "requirements/$extra.txt" requirements/torch.txt | cksum) $PWD"
  if [ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null; then
    [ "$(cat "$stamp" 2>/dev/null)" != "$now" ] || return 0
  else
    local python
    python=$(find_python) || exit 1
    say "Creating a virtual environment in .venv with $("$python" --version) …"
    "$python" -m venv --clear .venv
  fi
  say "Installing svd-service[$extra] into .venv (the first time, this downloads PyTorch) …"
  # PyTorch comes first and without hashes: which build pip takes depends on the machine. Everything else is what was locked.
  {
    install_packages --constraint requirements/torch.txt torch &&
      install_packages --no-deps --require-hashes --requirement "requirements/$extra.txt" &&
      install_packages --no-deps --editable .
  } || die "The installation failed; see pip's messages above."
  # pip would compile one file after the other. Some packages carry files for other versions of Python, which do not compile.
  .venv/bin/python -m compileall -q -j 0 .venv/lib svd_service tools >/dev/null 2>&1 || true
  printf '%s\n' "$now" >"$stamp"
}

install_packages() { .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile "$@"; }
