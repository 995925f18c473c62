#!/usr/bin/env bash
# Installs Azurite, the Azure Blob server that the tests talk to, into .azurite/ of the work tree. Its release is pinned here.
# The tests need it, so this fails where it cannot be had, and says what is missing.
set -euo pipefail
version=3.37.0
oldest_node=18
folder=$(cd "$(dirname "$0")/.." && pwd)/.azurite

advice="the tests of az:// need Node.js $oldest_node or newer with npm, to run Azurite: install with 'apt-get install nodejs npm', or from your distribution"
if ! command -v node > /dev/null || ! command -v npm > /dev/null; then
    echo "$advice" >&2
    exit 1
fi
if [[ $(node -p 'Number(process.versions.node.split(".")[0])') -lt $oldest_node ]]; then
    echo "Node.js $(node --version) is too old; $advice" >&2
    exit 1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
mkdir -p "$folder"
# A manifest of its own, or npm would look for one in the folders above. No scripts: nothing of what it installs needs any.
echo '{"private": true}' > "$folder/package.json"
if ! npm install --prefix "$folder" --no-audit --no-fund --ignore-scripts --omit=dev "azurite@$version" > "$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "azurite $version could not be installed by npm" >&2
    exit 1
fi
echo "installed azurite $version"
