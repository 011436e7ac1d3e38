#!/usr/bin/env bash
# Generate a video of an image, from a fresh checkout: create .venv if it is missing, install, start the whole service on
# free ports with its data in a temporary folder, submit the image over HTTP, save the video, and stop everything again.
#
# usage: scripts/demo.sh [IMAGE [OUT.mp4]]      default: scripts/sample.jpg and out.mp4
# Variables: SVD_MODEL (default: the nano model), SVD_MODEL_REVISION, SVD_DEVICES, SVD_MEMORY, SVD_CPU_THREADS, HF_TOKEN and the
# hub's other variables, which may be in .env, too. Other settings, exported or in .env, are those of another service and ignored.
set -euo pipefail

# shellcheck source=scripts/usage.sh
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
show_usage "${1:-}"

absolute() { case $1 in /*) printf '%s\n' "$1" ;; *) printf '%s\n' "$PWD/$1" ;; esac; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
image=$(absolute "${1:-$here/scripts/sample.jpg}")
out=$(absolute "${2:-out.mp4}")
[ ! -d "${SVD_MODEL:-}" ] || SVD_MODEL=$(absolute "$SVD_MODEL")
cd "$here"
# shellcheck source=scripts/environment.sh
. scripts/environment.sh

[ -f "$image" ] || die "Image not found: $image"
[ -r "$image" ] || die "Cannot read the image $image"
[ ! -d "$out" ] || die "$out is a folder; specify a file for the video."
[ -d "$(dirname "$out")" ] || die "Folder not found: $(dirname "$out")"

ensure_environment local

folder=$(mktemp -d "${TMPDIR:-/tmp}/svd-demo.XXXXXX")
folder=$(absolute "$folder")
service='' client=''
running() { [ -n "$service" ] && kill -0 "$service" 2>/dev/null; }
stop() {
  trap - EXIT
  say "Stopping …"
  [ -z "$client" ] || kill "$client" 2>/dev/null || true
  # Send a second signal if the first has no effect within a few seconds: there is nothing worth waiting for.
  for _ in 1 2; do
    ! running || kill -TERM "$service" 2>/dev/null || true
    for _ in $(seq 30); do
      running || break
      sleep 0.1
    done
  done
  [ -z "$service" ] || wait "$service" 2>/dev/null || true
  rm -rf "$folder"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

read -r port metrics < <(.venv/bin/python - <<'PYTHON'
import socket

listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(listener.getsockname()[1] for listener in listeners))
PYTHON
)
address=http://127.0.0.1:$port

# Settings of another service would put the demo's files into its store, or its keys would refuse the demo's request.
for name in $(env | awk -F= '/^(SVD|REDIS|CELERY)_[A-Za-z0-9_]*=/ { print $1 }'); do
  case $name in
    SVD_MODEL | SVD_MODEL_REVISION | SVD_DEVICES | SVD_MEMORY | SVD_CPU_THREADS) ;;
    *) unset "$name" ;;
  esac
done
# The service reads .env in its working directory, and secrets in /run/secrets by default.
[ ! -f .env ] || grep -E '^(export +)?HF_' .env >"$folder/.env" || true
mkdir "$folder/secrets"
: >"$folder/up.log"
(
  cd "$folder"
  # The nano model unless another is named: SVD-XT, the default with a GPU, is a download of 5 GB behind a licence.
  exec env "SVD_MODEL=${SVD_MODEL:-$here/svd_service/models/nano}" \
    "SVD_DATA_DIR=$folder" "SVD_SECRETS_DIR=$folder/secrets" SVD_BIND="127.0.0.1:$port" SVD_EXPORTER_BIND="127.0.0.1:$metrics" \
    "$here/.venv/bin/svd-service" up >up.log 2>&1
) &
service=$!
say "Starting Redis, worker and HTTP API on $address …"
until grep -q '^Ready' "$folder/up.log"; do
  running || {
    cat "$folder/up.log" >&2
    die "The service did not start."
  }
  sleep 0.2
done
sed -n 's/^  model  */Model: /p' "$folder/up.log" >&2
if [ -z "${SVD_MODEL:-}" ] && command -v nvidia-smi >/dev/null; then
  say "The demo uses the bundled nano model; svd-service up uses SVD-XT on this machine's GPU."
fi

# In the background, so that this shell handles Ctrl-C at once.
.venv/bin/svd-service generate "$image" --out "$out" --server "$address" &
client=$!
wait "$client" || die "Generation failed; there is no video."
