#!/usr/bin/env bash
# Installs what the benchmarks take from Debian: nginx (a static sendfile server) and wrk (the limit of HTTP on this machine).
# Never fails: without them everything but the rows that name them still runs.
set -euo pipefail
missing=()
[[ -x /usr/sbin/nginx ]] || command -v nginx > /dev/null || missing+=(nginx-light)
command -v wrk > /dev/null || missing+=(wrk)
[[ ${#missing[@]} -gt 0 ]] || exit 0

advice="make bench needs ${missing[*]}: install with 'apt-get install ${missing[*]}', or from your distribution"
if [[ $(id -u) -ne 0 ]] || ! command -v apt-get > /dev/null; then
    echo "$advice"
    exit 0
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# Run level 1 keeps the package's scripts from starting a web server on port 80.
export RUNLEVEL=1
install=(apt-get install --yes --quiet --no-install-recommends "${missing[@]}")
if "${install[@]}" > "$log" 2>&1 || { apt-get update --quiet > "$log" 2>&1 && "${install[@]}" > "$log" 2>&1; }; then
    echo "installed ${missing[*]}"
else
    tail -n 3 "$log"
    echo "$advice"
fi
