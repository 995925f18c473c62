#!/usr/bin/env bash
# Lints what users get: the built wheel, unpacked in a temporary folder that is also the working directory.
# Neither mypy nor import-linter sees the package-dir mapping of an editable install, so a run in the work tree would check nothing.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${1:-"$root/.venv/bin/python"}
[[ $python == /* ]] || python="$root/$python"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# A build folder of its own: a module deleted from the tree would live on in build/lib and be linted and shipped.
printf '[build]\nbuild_base = %s\n' "$folder/build" > "$folder/extra.cfg"
if ! DIST_EXTRA_CONFIG="$folder/extra.cfg" "$python" -m build --wheel --no-isolation --outdir "$folder" "$root" > "$folder/build.log" 2>&1; then
    cat "$folder/build.log" >&2
    exit 1
fi
"$python" -m zipfile -e "$folder"/s3dlio_shm-*.whl "$folder/wheel"
cd "$folder/wheel"

failed=0
echo "mypy --strict"
"$python" -m mypy --config-file "$root/pyproject.toml" --cache-dir "$root/.mypy_cache" -p s3dlio || failed=1
echo "import-linter"
"$(dirname "$python")/lint-imports" --config "$root/pyproject.toml" --cache-dir "$root/.import_linter_cache" --no-logo || failed=1
echo "imports at run time"
"$python" -P "$root/tools/import_closure.py" "$folder/wheel" || failed=1
exit $failed
