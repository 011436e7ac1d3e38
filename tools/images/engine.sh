# shellcheck shell=bash
# Sourced by scripts/compose_smoke.sh: provides a Docker engine, Compose and base images, as far as this machine lacks them.
# Sets and exports DOCKER_HOST, DOCKER_CONFIG, PYTHON_IMAGE, BUILD_IMAGE and TORCH_INDEX_URL as needed.

say() { printf '%s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

start_engine() { # start_engine FOLDER: start dockerd with all of its files in FOLDER
  local folder=$1
  if [ "$(id -u)" != 0 ] || ! command -v dockerd >/dev/null; then
    die "No Docker engine is running. Start one, or run this as root after: apt-get install docker.io iptables"
  fi
  say "Starting a Docker engine in $folder …"
  # The bridge's default MTU is larger than that of some networks (1400 in many clouds), where downloads would stall.
  local device mtu=1500
  device=$(ip route show default 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -1)
  if [ -n "$device" ]; then mtu=$(cat "/sys/class/net/$device/mtu"); fi
  dockerd --host "unix://$folder/docker.sock" --data-root "$folder/data" --exec-root "$folder/exec" \
    --pidfile "$folder/docker.pid" --mtu "$mtu" >"$folder/dockerd.log" 2>&1 &
  export DOCKER_HOST=unix://$folder/docker.sock
  for _ in $(seq 60); do
    if docker info >/dev/null 2>&1; then return; fi
    sleep 1
  done
  tail "$folder/dockerd.log" >&2
  die "The engine did not start; the end of its log is above."
}

stop_engine() { # stop_engine FOLDER: stop the engine that start_engine started, and delete its data
  local folder=$1
  case $folder in
    */svd-engine.??????) ;;
    *) die "$folder is not a folder of start_engine; not deleting it." ;;
  esac
  if [ -e "$folder/docker.pid" ]; then
    kill "$(cat "$folder/docker.pid")"
    while [ -e "$folder/docker.pid" ]; do sleep 0.5; done
  fi
  rm -rf "$folder"
}

find_compose() { # find_compose FOLDER: find Compose 2.24.4 or newer; on Debian, unpack it from a newer release into FOLDER
  local folder=$1 version
  version=$(docker compose version --short 2>/dev/null || true)
  if [ "$(printf '%s\n' 2.24.4 "${version#v}" | sort -V | head -1)" = 2.24.4 ]; then return; fi
  command -v apt-get >/dev/null || die "This needs Docker Compose 2.24.4 or newer."
  say "Fetching Compose from Debian trixie …"
  mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial" "$folder/config/cli-plugins"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main" >"$folder/sources.list"
  local options=(-o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=root)
  (
    cd "$folder" || exit
    apt-get "${options[@]}" -qq update
    apt-get "${options[@]}" -qq download docker-compose docker-buildx
    for package in ./*.deb; do dpkg -x "$package" unpacked; done
  ) >&2
  cp "$folder"/unpacked/usr/libexec/docker/cli-plugins/* "$folder/config/cli-plugins/"
  export DOCKER_CONFIG=$folder/config
}

image_of() { # image_of SERVICE: print the service's image in compose.yaml
  sed -n "s/^ *image: \($1[/:].*\)$/\1/p" compose.yaml
}

make_images() { # without a reachable registry, make base images from Debian packages under the names in compose.yaml
  local python=localhost/svd-python others=localhost/svd-others image
  export CONTAINER_TOOL=docker
  if docker image inspect python:3.11-slim-bookworm >/dev/null 2>&1 || docker pull -q python:3.11-slim-bookworm >&2; then return; fi
  docker image inspect "$python" >/dev/null 2>&1 || tools/images/base_image.sh "$python" python3 python3-venv >&2
  docker image inspect "$others" >/dev/null 2>&1 \
    || DEBIAN_SUITE=trixie tools/images/base_image.sh "$others" redis-server prometheus python3 wget >&2
  docker tag "$others" "$(image_of redis)"
  image=$(image_of prom)
  docker image inspect "$image" >/dev/null 2>&1 || docker build --quiet --tag "$image" - >&2 <<EOF
FROM $others
RUN install -d -o nobody -g nogroup /prometheus
ENTRYPOINT ["/usr/bin/prometheus"]
EOF
  # Grafana is not a Debian package: a stand-in that answers its health check.
  image=$(image_of grafana)
  docker image inspect "$image" >/dev/null 2>&1 || docker build --quiet --tag "$image" - >&2 <<EOF
FROM $others
RUN mkdir -p /srv/api && echo ok >/srv/api/health && install -d -o 472 /var/lib/grafana
CMD ["python3", "-m", "http.server", "3000", "--directory", "/srv"]
EOF
  local folders=() place
  for place in ${PIP_FIND_LINKS:-}; do
    if [ -d "$place" ]; then folders+=("$place"); fi
  done
  # Make it only once: another image would invalidate the builder's cache.
  docker image inspect localhost/svd-build >/dev/null 2>&1 \
    || tools/images/build_image.sh localhost/svd-build "$python" "${folders[@]}"
  export PYTHON_IMAGE=$python BUILD_IMAGE=localhost/svd-build
  # A local torch wheel is used if there is one, otherwise PyTorch's index.
  if compgen -G "${folders[0]:-/nowhere}/torch-*.whl" >/dev/null; then export TORCH_INDEX_URL=; fi
}
