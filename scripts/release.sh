#!/usr/bin/env bash
# Build a release into dist/: wheel and source archive, bill of materials, release notes. Uploads nothing.
#
# usage: scripts/release.sh VERSION      fails unless VERSION is that of the code and CHANGELOG.md has a section for it
set -euo pipefail
# shellcheck source=scripts/usage.sh
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
[ $# = 1 ] || {
  usage >&2
  exit 2
}
show_usage "$1"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh
version=$1
code=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' svd_service/__init__.py)
[ "$code" = "$version" ] || die "svd_service/__init__.py has version $code, not $version."
rm -rf dist
mkdir -p dist/packages dist/sbom
awk -v start="## [$version]" 'index($0, start) == 1 { found = 1; next } /^## \[/ { found = 0 } found' CHANGELOG.md >dist/notes.md
[ -s dist/notes.md ] || die "CHANGELOG.md has no section ## [$version]."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$(find_python)" -m venv "$scratch/build"
"$scratch/build/bin/pip" install --quiet --disable-pip-version-check build cyclonedx-bom
"$scratch/build/bin/python" -m build --outdir dist/packages .
for extra in api worker; do
  "$scratch/build/bin/cyclonedx-py" requirements --output-file "dist/sbom/svd-service-$extra.cdx.json" "requirements/$extra.txt"
done

"$(find_python)" -m venv "$scratch/install"
"$scratch/install/bin/pip" install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement requirements/client.txt
"$scratch/install/bin/pip" install --quiet --disable-pip-version-check --no-deps dist/packages/*.whl
"$scratch/install/bin/svd-service" --help >/dev/null
say "dist/ has svd-service $version."
