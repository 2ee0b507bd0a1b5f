#!/usr/bin/env bash
# Puts everything that card.sh runs into $BUILD/gpu: tests and programs with the real
# plugin beside them, and the libraries that a machine with a card may lack. (For such a machine it
# is carried there, where nothing can be built: see CONTRIBUTING.md.)
set -euo pipefail
BUILD=${BUILD:-build} to=${BUILD:-build}/gpu
rm -rf "$to" && mkdir -p "$to/lib"
cp "$BUILD"/{ckdistill,step,pass,libck-cuda.so} "$BUILD"/tests/test_{ops,unet,run,world} "$to"
strip "$to"/{ckdistill,step,pass,test_*}
# (Every Linux has those of the compiler and the C library; oneDNN is large, and left out by the
# build.)
ldd "$to"/{ckdistill,test_run} | awk '$3 ~ /^\// {print $3}' | sort -u |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|libgcc_s|libstdc\+\+)\.so' |
    xargs -I{} cp -L {} "$to/lib/"
# (A machine that has torch and can fetch nothing may lack diffusers.)
"${PYTHON:-python3}" -m pip install -q --no-deps --no-compile --target "$to/python" diffusers importlib_metadata zipp 2>/dev/null ||
    echo "diffusers: cannot be fetched, left out"
tar -C "$BUILD" -czf "$to.tar.gz" gpu
du -sh "$to" "$to.tar.gz"
