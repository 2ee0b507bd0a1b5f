#!/usr/bin/env bash
# card.sh with the card that is none in the place of the plugin, and a UNet that is small: slow, and only
# good for seeing that the script does what it says. dry.sh [STEP...]
set -euo pipefail
BUILD=${BUILD:-build} to=${BUILD:-build}/gpu-dry
rm -rf "$to" && mkdir -p "$to/lib"
cp "$BUILD"/{ckdistill,step,pass} "$BUILD"/tests/test_{ops,unet,run,world} "$BUILD"/tests/lib{ck-cuda.so,nccl.so.2} "$to"
GPU=$to OUT=$to/results CONFIG=${CONFIG:-recipes/models/base/unet/config.json} PATIENCE=20 SECONDS_IN_ALL=7200 \
    tests/gpu/card.sh "$@"
