#!/usr/bin/env bash
# Resolve the versions of every package that svd-service installs and write them to requirements/, with hashes.
#
# usage: scripts/lock.sh [--upgrade]      without --upgrade, versions already in requirements/ are kept where possible
#
# requirements/EXTRA.txt lists the packages of one extra for Python 3.11 and newer on all platforms. PyTorch is not in
# them: its build depends on the device, so its hash does too. requirements/torch.txt pins the versions of PyTorch and of
# the libraries that its CUDA build brings, without hashes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh

case ${1:-} in
  '' | --upgrade) ;;
  *)
    sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$(find_python)" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check 'uv>=0.9,<1'
uv=$scratch/venv/bin/uv

compile() { # compile OUTPUT ARGUMENTS…
  local output=$1
  shift
  "$uv" pip compile pyproject.toml --quiet --universal --python-version 3.11 --no-annotate --no-header \
    --no-emit-index-url --no-emit-find-links --no-emit-package svd-service --output-file "$output" "$@"
}

without_torch=()
mkdir -p requirements
# All extras are resolved together, so that a package has one version in all of them.
# uv keeps the versions that it finds in the file that it is to write.
[ -n "${1:-}" ] || grep -hE '^[a-z0-9._-]+==' requirements/*.txt 2>/dev/null | sed 's/ *\\$//' | sort -u >"$scratch/all.txt" || true
compile "$scratch/all.txt" --all-extras
torch='^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)=='
while read -r package; do without_torch+=(--no-emit-package "${package%==}"); done < <(grep -oE "$torch" "$scratch/all.txt")
{
  printf '# Versions of PyTorch and of what its CUDA build brings; scripts/lock.sh writes this file.\n'
  grep -E "$torch" "$scratch/all.txt"
} >requirements/torch.txt
extras=$("$scratch/venv/bin/python" -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"])')
for extra in $extras; do
  compile "$scratch/$extra.txt" --extra "$extra" --generate-hashes --constraint "$scratch/all.txt" "${without_torch[@]}"
  {
    printf '# Packages of svd-service[%s]; scripts/lock.sh writes this file.\n' "$extra"
    cat "$scratch/$extra.txt"
  } >"requirements/$extra.txt"
done
say "Wrote requirements/ for the extras $(echo "$extras" | tr '\n' ' ')"
