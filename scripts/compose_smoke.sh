#!/usr/bin/env bash
# Run compose.yaml and compose.cpu.yaml with real containers, and print a table: first start and video with the README's curl
# lines, logins, drain, a crash of every container, scaling, proxies, folders of the host, an upgrade, removal.
#
# usage: scripts/compose_smoke.sh [--from COMMIT] [--screenshots FOLDER] [--only STEP,…]
#   --from COMMIT        upgrade from this commit (default: the one before); `none` leaves the upgrade out
#   --screenshots FOLDER pages of Prometheus and Flower, if Chromium is installed
#   --only STEP,…        only these steps (tools/images/compose_smoke.py names them)
#
# Uses the running Docker engine. Without one, as root, it starts an engine in its own folder and stops it
# afterwards (Debian: apt-get install docker.io iptables debootstrap). Without a reachable registry, base
# images are created from Debian packages, with a stand-in for Grafana. Ports 8000, 5555, 9090 and 3000 must be free.
set -euo pipefail

# shellcheck source=scripts/usage.sh
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
show_usage "${1:-}"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/images/engine.sh
. tools/images/engine.sh

engine=$(mktemp -d "${TMPDIR:-/tmp}/svd-engine.XXXXXX")
readonly engine
trap 'stop_engine "$engine"' EXIT
command -v docker >/dev/null || die "docker is not installed."
docker info >/dev/null 2>&1 || start_engine "$engine"
find_compose "$engine"
make_images
python3 -m tools.images.compose_smoke "$@"
