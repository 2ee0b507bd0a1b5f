#!/bin/sh
# Installs to an empty folder, merges with what lies there and nothing else, and takes it away again.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
make -s install PREFIX="$place/usr" >/dev/null
for p in ckmerge cktool ckdistill; do
    "$place/usr/bin/$p" --help >/dev/null
    test -s "$place/usr/share/man/man1/$p.1"
done
test -s "$place/usr/share/ckmerge/recipes/distill/checkerboard-teacher.safetensors"
make -s uninstall PREFIX="$place/usr"
left=$(find "$place" -type f)
[ -z "$left" ] || { echo "uninstall left: $left" >&2; exit 1; }
echo "install: ok"
