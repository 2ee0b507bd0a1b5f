#!/usr/bin/env bash
# card.sh with the card that is none in the place of the plugin, a UNet that is small, and nothing in the place of
# compute-sanitizer: only good for seeing that the script does what it says. dry.sh [STEP...]
set -euo pipefail
BUILD=${BUILD:-build} to=${BUILD:-build}/gpu-dry
rm -rf "$to" "$to-results" && mkdir -p "$to/lib"
cp "$BUILD"/{ckdistill,step,pass} "$BUILD"/tests/test_{ops,unet,run,world} "$BUILD"/tests/lib{ck-cuda.so,nccl.so.2} "$to"
printf '#!/bin/sh\nshift 4 # --tool NAME --error-exitcode 9\nexec "$@"\n' >"$to/sanitizer" && chmod +x "$to/sanitizer"
GPU=$to CONFIG=${CONFIG:-recipes/models/base/unet/config.json} FEW=1 MANY=2 SANITIZER=$to/sanitizer \
    PATIENCE=20 SECONDS_IN_ALL=7200 tests/gpu/card.sh "$@"
