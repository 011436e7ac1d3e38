#!/bin/sh
# Runs to its end before the other containers of compose.yaml, at every `docker compose up`, as root without network:
#  - gives volumes, and folders of the host that take their place, to the users that write to them;
#  - makes the secrets that are missing, shows each once, and keeps them in the volume `secrets`.
# Its variables are those of the service `prepare` in compose.yaml.
set -eu

fail() {
  echo "prepare: $*" >&2
  exit 1
}

own() { # own FOLDER USER: the folder and all in it, unless the folder is that user's already
  [ "$(stat -c %u "$1")" = "$2" ] || chown -R "$2:$2" "$1" \
    || fail "cannot give $1 to user $2; do it on the host: chown -R $2:$2 FOLDER"
}

keep() { # keep NAME USER TEXT: a secret that only USER can read
  (umask 077 && printf '%s\n' "$3" >"/secrets/.$1")
  chown "$2" "/secrets/.$1"
  mv "/secrets/.$1" "/secrets/$1"
}

random() {
  head -c 18 /dev/urandom | base64 | tr '+/' '-_'
}

loopback() { # loopback ADDRESS: whether what is published there can be reached from this machine alone
  case $1 in
    127.*:* | localhost:* | '[::1]':*) return 0 ;;
    *) return 1 ;;
  esac
}

for folder in /redis /data /cache; do own "$folder" 10001; done

# Secrets that the operator put there are the service's.
chmod 0755 /secrets
for file in /secrets/*; do
  if [ -f "$file" ] && [ "$file" != /secrets/GRAFANA_ADMIN_PASSWORD ]; then
    chown 10001 "$file"
    chmod 0400 "$file"
  fi
done

if [ -z "${SVD_FLOWER_BASIC_AUTH:-}" ] && [ ! -s /secrets/SVD_FLOWER_BASIC_AUTH ]; then
  password=$(random)
  keep SVD_FLOWER_BASIC_AUTH 10001 "svd:$password"
  echo "Flower: user svd, password $password"
fi

if [ -n "${GRAFANA_ADMIN_PASSWORD:-}" ]; then
  keep GRAFANA_ADMIN_PASSWORD 472 "$GRAFANA_ADMIN_PASSWORD"
elif [ ! -s /secrets/GRAFANA_ADMIN_PASSWORD ]; then
  password=$(random)
  keep GRAFANA_ADMIN_PASSWORD 472 "$password"
  echo "Grafana (--profile monitoring): user admin, password $password"
fi

# Without keys the API serves everybody who reaches it: that is for this machine alone, unless SVD_OPEN allows it.
if ! loopback "$SVD_PUBLISH" && [ -z "${SVD_OPEN:-}${SVD_API_KEYS:-}" ] && [ ! -s /secrets/SVD_API_KEYS ]; then
  key=sk-svd-$(random)$(random)
  keep SVD_API_KEYS 10001 "first:$(printf %s "$key" | sha256sum | cut -d ' ' -f 1):2"
  echo "The API is published on $SVD_PUBLISH, so it requires a key: $key (not shown again)"
fi
