# shellcheck shell=bash
# Sourced by the scripts about images: sets `tool` to CONTAINER_TOOL, or to the first of docker, podman and buildah that
# works.

say() { printf '%s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

find_tool() {
  local candidate
  for candidate in docker podman; do
    # The command may be installed without a running engine.
    if command -v "$candidate" >/dev/null && "$candidate" info >/dev/null 2>&1; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  command -v buildah >/dev/null || die "Found no working docker or podman, and no buildah."
  printf 'buildah\n'
}

tool=${CONTAINER_TOOL:-$(find_tool)} || exit 1

if [ "$tool" = buildah ]; then
  # Without a container runtime, build steps run in a chroot; without overlays, each layer is a copy.
  command -v crun >/dev/null || command -v runc >/dev/null || export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
  [ "$(id -u)" != 0 ] || export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs}
fi
export CONTAINER_TOOL=$tool
