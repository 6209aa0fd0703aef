#!/bin/sh
# make-venv.sh VENV REQUIREMENTS: the services' Python environment, with the distribution's python3, every
# package pinned by hash. The mark is written last: an interrupted run is started over, a finished one kept.
set -eu
venv=$1 requirements=$2
mark=$venv/.made-from
want=$(sha256sum <"$requirements")
[ "$(cat "$mark" 2>/dev/null)" = "$want" ] && exit 0
rm -rf "$venv"
mkdir -p "$(dirname "$venv")"
/usr/bin/python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --no-cache-dir --no-input --require-hashes -r "$requirements"
chmod -R a+rX "$venv"
printf '%s\n' "$want" >"$mark"
echo made
