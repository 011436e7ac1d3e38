#!/usr/bin/env bash
# Make an image to build with (the Dockerfiles' BUILD_IMAGE) on a network with its own certificates or package sources: the
# base, this machine's certificate authorities, its PIP_… variables, and folders. None of it gets into the built images.
#
# usage: tools/images/build_image.sh NAME BASE [FOLDER…]
#   tools/images/build_image.sh localhost/build python:3.11-slim-bookworm ./wheels
# then: BUILD_IMAGE=localhost/build docker compose up --build, or scripts/build_images.sh
# Variables: CERTIFICATES (/etc/ssl/certs/ca-certificates.crt), CONTAINER_TOOL.
set -euo pipefail

# shellcheck source=scripts/usage.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/usage.sh"
show_usage "${1:---help}"

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tools/images/container_tool.sh
. tools/images/container_tool.sh
[ "$tool" != buildah ] || die "buildah mounts folders and settings itself: see scripts/build_images.sh --help."

name=$1 base=$2
shift 2
certificates=${CERTIFICATES:-/etc/ssl/certs/ca-certificates.crt}
container=$("$tool" create "$base" true)
trap '"$tool" rm "$container" >/dev/null' EXIT

copy() { # copy PATH: to the same path in the container
  tar --create --absolute-names --dereference "$1" | "$tool" cp - "$container:/"
}

changes=()
if [ -e "$certificates" ]; then
  copy "$certificates"
  # The variables of pip and of OpenSSL.
  for variable in PIP_CERT SSL_CERT_FILE; do changes+=(--change "ENV $variable=$certificates"); done
fi
while IFS='=' read -r variable value; do
  [ "$variable" = PIP_CERT ] || changes+=(--change "ENV $variable=$value")
done < <(env | grep '^PIP_' || true)
for folder in "$@"; do copy "$(realpath "$folder")"; done
"$tool" commit "${changes[@]}" "$container" "$name" >/dev/null
say "$name is $base with this machine's certificates, pip settings and folders."
