#!/bin/sh
# A training step of a UNet (34 million parameters, batch 8, latents 32 x 32, 77 tokens: 204.6 GFLOP)
# by each backend and, where PYTHON has it, by torch, one after the other in one run.
set -eu
BUILD=${BUILD:-build} PYTHON=${PYTHON:-python3}
here=tests/bench
for backend in cpu cpu-bf16; do "$BUILD/train" $here/unet34.json $backend 8 77; done
if "$PYTHON" -c "import torch, diffusers" 2>/dev/null; then
    "$PYTHON" $here/train.py $here/unet34.json 8 77 2>/dev/null
else
    echo "torch: not found (PYTHON=... names an interpreter that has torch and diffusers)"
fi
