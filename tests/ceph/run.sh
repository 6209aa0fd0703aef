#!/bin/sh
# The S3 conformance suite, the admission probe and the whole way of a backup, on a Ceph RGW of one node that
# is started on loopback for it. As root on Debian it installs what is missing (73 MB of packages).
set -e
cd "$(dirname "$0")/../.."
packages="ceph-mon ceph-osd radosgw"
for program in $packages; do
  command -v "$program" >/dev/null && continue
  [ "$(id -u)" = 0 ] || { echo "missing: $program; as root: apt-get install --no-install-recommends $packages" >&2; exit 1; }
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages
  break
done
export PYTHONPATH="$PWD"
exec "${PYTHON:-.venv/bin/python}" -P tests/ceph/cluster.py "${PYTHON:-.venv/bin/python}" -P -m pytest -q \
  tests/conformance/objectstore/test_contract.py tests/conformance/objectstore/test_backup_path.py "$@"
