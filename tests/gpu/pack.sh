#!/usr/bin/env bash
# Puts everything that test.sh and bench.sh run into $BUILD/gpu: tests and programs with the real
# plugin beside them, and the libraries that a machine with a card may lack. (For such a machine it
# is carried there, where nothing can be built: see CONTRIBUTING.md.)
set -euo pipefail
BUILD=${BUILD:-build} to=${BUILD:-build}/gpu
rm -rf "$to" && mkdir -p "$to/lib"
cp "$BUILD"/{ckdistill,step,libck-cuda.so} "$BUILD"/tests/test_{ops,unet,run,world} "$to"
strip "$to"/{ckdistill,step,test_*}
# (Every Linux has those of the compiler and the C library; oneDNN is large, and left out by the
# build.)
ldd "$to"/{ckdistill,test_run} | awk '$3 ~ /^\// {print $3}' | sort -u |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|libgcc_s|libstdc\+\+)\.so' |
    xargs -I{} cp -L {} "$to/lib/"
tar -C "$BUILD" -czf "$to.tar.gz" gpu
du -sh "$to" "$to.tar.gz"
