#!/usr/bin/env bash
# Build the sdist into a folder (default dist), the same bytes whenever and wherever the same commit
# is packed: setuptools stores the times, owners and modes of the checkout. Needs build and GNU tar.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "${1:-dist}"
to=$(cd "${1:-dist}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
time=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct)}

python -m build --sdist -o "$work" "$root" > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
archive=$(basename "$work"/*.tar.gz)
tar -C "$work" -xzf "$work/$archive"
tar -C "$work" --format=ustar --sort=name --mtime="@$time" --owner=0 --group=0 --numeric-owner \
    --mode=u+rwX,go+rX,go-w -cf - "${archive%.tar.gz}" | gzip -9n > "$to/$archive"
echo "$to/$archive"
