#!/bin/sh
# Installs the Debian packages that building and testing need, only those that are missing.
set -eu

packages="gcc make pkg-config libc6-dev libcjson-dev libssl-dev libhdf5-dev zlib1g-dev libpng-dev
libjpeg-dev libyaml-dev libopenblas-dev liblapacke-dev libcmocka-dev python3-pip"
[ $# -gt 0 ] && packages="$packages $*"

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "deps: not a Debian system; please install what these packages hold: $packages"
    exit 0
fi
missing=""
for p in $packages; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
if [ -z "$missing" ]; then
    echo "deps: nothing is missing"
    exit 0
fi
echo "deps: installing$missing"
sudo=""
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || { echo "deps: not root and no sudo; install:$missing" >&2; exit 1; }
    sudo=sudo
fi
$sudo apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq $missing >/dev/null
