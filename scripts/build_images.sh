#!/usr/bin/env bash
# Build the images of docker/ with docker, podman or buildah, whichever is installed: svd-service-api, svd-service-worker.
#
# usage: scripts/build_images.sh [--smoke] [api] [worker] [-- BUILDER ARGUMENTS]
#   --smoke    afterwards compare the images' packages with the lock, run a job through them and print their sizes
# Variables: PYTHON_IMAGE, the base, by tag or digest (default: the Dockerfiles'); REDIS_IMAGE, for the smoke run (default: that of
# compose.yaml); CONTAINER_TOOL, to choose the builder.
#
# On a network with its own certificates or package sources, mount them for the build; they are not kept in the images:
#   scripts/build_images.sh -- -v /etc/ssl/certs:/etc/ssl/certs:ro -v /etc/pip.conf:/etc/pip.conf:ro    (podman, buildah)
# Without a reachable registry, base_image.sh creates a base image from Debian packages.
set -euo pipefail

# shellcheck source=scripts/usage.sh
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
show_usage "${1:-}"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/images/container_tool.sh
. tools/images/container_tool.sh

smoke=''
images=()
while [ $# -gt 0 ]; do
  case $1 in
    --smoke) smoke=yes ;;
    api | worker) images+=("$1") ;;
    --)
      shift
      break
      ;;
    *) die "Unknown image $1; expected api or worker." ;;
  esac
  shift
done
[ ${#images[@]} -gt 0 ] || images=(api worker)

arguments=("$@")
[ -z "${PYTHON_IMAGE:-}" ] || arguments+=(--build-arg "PYTHON_IMAGE=$PYTHON_IMAGE")
case $tool in
  docker) build=(docker build) ;;
  # Docker's format, since OCI's has no health check.
  *) build=("$tool" build --format docker) ;;
esac

# Before version 4.4 (macOS has 3.2), bash rejects an empty array as an unset variable.
for image in "${images[@]}"; do
  say "Building svd-service-$image with $tool …"
  "${build[@]}" --file "docker/$image.Dockerfile" --tag "svd-service-$image" ${arguments[@]+"${arguments[@]}"} .
done

if [ -n "$smoke" ]; then
  base=${PYTHON_IMAGE:-$(sed -n 's/^ARG PYTHON_IMAGE=//p' docker/api.Dockerfile)}
  exec python3 -m tools.images.smoke --base "$base" ${REDIS_IMAGE:+--redis "$REDIS_IMAGE"}
fi
