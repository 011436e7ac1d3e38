#!/usr/bin/env bash
# Build a base image from Debian packages where no image registry can be reached. Needs root and debootstrap.
#
# usage: tools/images/base_image.sh NAME PACKAGE…
#   tools/images/base_image.sh localhost/python python3 python3-venv     then: PYTHON_IMAGE=localhost/python scripts/build_images.sh
#   tools/images/base_image.sh localhost/redis redis-server              then: REDIS_IMAGE=localhost/redis scripts/build_images.sh --smoke
# Variables: DEBIAN_SUITE (bookworm), DEBIAN_MIRROR (debootstrap's default), CONTAINER_TOOL.
set -euo pipefail

# shellcheck source=scripts/usage.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/usage.sh"
show_usage "${1:---help}"

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tools/images/container_tool.sh
. tools/images/container_tool.sh

name=$1
shift
include=$(IFS=,; printf '%s' "$*")
folder=$(mktemp -d "${TMPDIR:-/tmp}/svd-base.XXXXXX")
trap 'rm -rf "$folder"' EXIT

say "Installing Debian ${DEBIAN_SUITE:-bookworm} with $* …"
debootstrap --variant=minbase ${include:+--include="$include"} \
  "${DEBIAN_SUITE:-bookworm}" "$folder/system" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$folder/log" || {
  tail "$folder/log" >&2
  die "debootstrap failed; the end of its log is above."
}
rm -rf "$folder"/system/var/cache/apt/archives/*.deb "$folder"/system/var/lib/apt/lists/*
# The container runtime creates the devices.
tar --directory "$folder/system" --exclude './dev/*' --create --file "$folder/system.tar" .

case $tool in
  docker | podman) "$tool" import --quiet "$folder/system.tar" "$name" 2>/dev/null || "$tool" import "$folder/system.tar" "$name" ;;
  buildah)
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$folder/system.tar" / >/dev/null
    buildah commit --quiet --rm "$container" "$name"
    ;;
esac
