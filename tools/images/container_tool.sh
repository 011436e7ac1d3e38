# shellcheck shell=bash
# Sourced by the scripts about images: sets `tool` to docker, podman or buildah, whichever is there and works, or to what
# CONTAINER_TOOL names.

say() { printf '%s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

find_tool() {
  local candidate
  for candidate in docker podman; do
    # The command alone does not do: docker's may have no engine to speak to.
    if command -v "$candidate" >/dev/null && "$candidate" info >/dev/null 2>&1; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  command -v buildah >/dev/null || die "There is neither a docker or podman that works, nor buildah."
  printf 'buildah\n'
}

tool=${CONTAINER_TOOL:-$(find_tool)} || exit 1

if [ "$tool" = buildah ]; then
  # Without a runtime of containers a build step can still run in a chroot; without overlays each layer is a copy.
  command -v crun >/dev/null || command -v runc >/dev/null || export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
  [ "$(id -u)" != 0 ] || export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs}
fi
export CONTAINER_TOOL=$tool
