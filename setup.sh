#!/bin/sh
# setup.sh [--lab]: the Python environment from the lock (.venv), and with --lab the Debian packages that the
# three-site lab stands on. Safe to repeat. As root on Debian 12 it installs; anywhere else it names exactly
# what is missing and stops.
set -eu
cd "$(dirname "$0")"
UV=0.13.9
UV_X86_64=d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19  # the manylinux wheels
UV_AARCH64=5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe
LAB="postgresql-15 etcd-server etcd-client haproxy openssh-server openssh-client nftables iproute2 e2fsprogs mount util-linux procps openssl xxd prometheus python3-venv ca-certificates"
BASE="python3-venv"

say() { printf '%s\n' "$*" >&2; }

codename=$(. /etc/os-release 2>/dev/null && echo "${VERSION_CODENAME:-unknown}") || codename=unknown

lacking() {
  for package in $1; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || printf '%s ' "$package"
  done
}

install() {
  missing=$(lacking "$1")
  [ -z "$missing" ] && return 0
  if [ "$codename" != bookworm ] || ! command -v apt-get >/dev/null; then
    say "missing: $missing(names as in Debian 12; this system is $codename)"
    say "hint: install them, or use a Debian 12 machine"
    exit 5
  fi
  if [ "$(id -u)" != 0 ]; then
    say "missing: $missing"
    say "hint: sudo apt-get install --no-install-recommends $missing"
    exit 5
  fi
  say "installing Debian packages: $missing"
  # Installed, not started: Debian would run a PostgreSQL cluster, an etcd and a prometheus of its own.
  policy=
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    policy=/usr/sbin/policy-rc.d
    trap 'rm -f "$policy"' EXIT INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    mkdir -p /etc/postgresql-common
    printf 'create_main_cluster = false\n' >/etc/postgresql-common/createcluster.conf
  fi
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -qq --no-install-recommends $missing >"$log" 2>&1 || {
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confold $missing >"$log" 2>&1 || {
      tail -n 20 "$log" >&2
      say "hint: apt-get could not install; its log is $log"
      exit 5
    }
  }
  rm -f "$log"
  [ -z "$policy" ] || rm -f "$policy"
}

# Packages first asked for only when something that they bring is not here.
command -v dpkg-query >/dev/null || {
  say "missing: dpkg (this system is $codename); zaibei's set-up knows Debian 12"
  exit 5
}
[ "${1:-}" = --lab ] && install "$LAB"

# The distribution's own python3: services of the lab run on the same one.
python=/usr/bin/python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
  say "missing: python3 >= 3.11 at $python"
  exit 5
}
if ! .tools/bin/uv --version 2>/dev/null | grep -q "uv $UV"; then
  "$python" -m venv --help >/dev/null 2>&1 && "$python" -c 'import ensurepip' 2>/dev/null || install "$BASE"
  rm -rf .tools
  "$python" -m venv .tools
  # By hash, as uv installs everything after it: a wheel that was changed on its way or at the index is refused.
  .tools/bin/pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r /dev/stdin <<EOT
uv==$UV --hash=sha256:$UV_X86_64 --hash=sha256:$UV_AARCH64
EOT
fi
.tools/bin/uv sync -q --frozen --python "$python"
