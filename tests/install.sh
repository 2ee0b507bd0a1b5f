#!/bin/sh
# Installs to an empty folder, runs the recipes there with what lies there and nothing else, and takes it away again.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
make -s install PREFIX="$place/usr" >/dev/null
for p in ckmerge cktool ckdistill; do
    "$place/usr/bin/$p" --help >/dev/null
    test -s "$place/usr/share/man/man1/$p.1"
done
for recipe in "$place"/usr/share/ckmerge/recipes/*.*[nla]; do
    (cd "$place" && usr/bin/ckmerge --recipe "$recipe" --dry-run -q >/dev/null)
done
for config in checkerboard-lcm fashion-turbo; do
    (cd "$place" && usr/bin/ckdistill run "usr/share/ckmerge/recipes/distill/$config.json" --dry-run -q)
done
make -s uninstall PREFIX="$place/usr"
left=$(find "$place" -type f)
[ -z "$left" ] || { echo "uninstall left: $left" >&2; exit 1; }
echo "install: ok"
