#!/bin/sh
# Our programs against the Python libraries, where $PYTHON has them.
set -eu
# Small networks: threads would mostly wait for each other.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
PYTHON=${PYTHON:-python3} BUILD=${BUILD:-build}
if ! "$PYTHON" -c "import torch, safetensors" 2>/dev/null; then
    echo "interop: $PYTHON has no torch and safetensors; give one that has with PYTHON=..."
    exit 1
fi
"$PYTHON" tests/interop/check.py "$BUILD"
"$PYTHON" tests/interop/check_lora.py "$BUILD"
if "$PYTHON" -c "import diffusers, transformers" 2>/dev/null; then
    "$PYTHON" tests/interop/check_configs.py "$BUILD"
    "$PYTHON" tests/interop/check_models.py "$BUILD"
    "$PYTHON" tests/interop/check_pipelines.py "$BUILD"
else
    echo "interop: $PYTHON has no diffusers and transformers: networks are not checked"
fi
