#!/bin/sh
# Brings oneDNN 3 (Debian's is older) into deps/onednn: the library and headers that its makers
# publish on PyPI, by version and hash. Without network nothing breaks: training is slower.
set -eu
cd "$(dirname "$0")/.."

dir=deps/onednn
[ "$(uname -m)" = x86_64 ] || { echo "deps: oneDNN is brought for x86_64 only"; exit 0; }
[ -e $dir/lib/libdnnl.so ] && exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/packages" <<'END'
onednn-cpu-gomp==2023.2.0 --hash=sha256:2f22a54d6a890ed14bfa185d42a4be65d8b5b1df85dc1f0f3a9abe31620416fb
onednn-devel-cpu-gomp==2023.2.0 --hash=sha256:9763c69e8c907e119056bd52ad918ca84ac9ba939d130a99dfa95ccca3e5e284
END
echo "deps: fetching oneDNN 3.2 (40 MB)"
# (--python-version, --platform: the files are for any Python; pip is only the one that fetches.)
if ! python3 -m pip --disable-pip-version-check -q download --no-deps --only-binary=:all: \
    --require-hashes --python-version 3 --platform manylinux1_x86_64 \
    -d "$work" -r "$work/packages"; then
    echo "deps: oneDNN could not be fetched; everything works without it, training is slower"
    exit 0
fi
for wheel in "$work"/*.whl; do python3 -m zipfile -e "$wheel" "$work"; done
mkdir -p $dir.new/lib
cp "$work"/onednn_cpu_gomp-*.data/data/lib/libdnnl.so.3.2 $dir.new/lib/libdnnl.so.3
ln -s libdnnl.so.3 $dir.new/lib/libdnnl.so
cp -r "$work"/onednn_devel_cpu_gomp-*.data/data/include $dir.new/include
cp "$work"/onednn_cpu_gomp-*.dist-info/LICENSE.txt $dir.new/LICENSE
mv $dir.new $dir
