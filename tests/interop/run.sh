#!/bin/sh
# Our programs against the Python libraries, where $PYTHON has them.
set -eu
PYTHON=${PYTHON:-python3} BUILD=${BUILD:-build}
if ! "$PYTHON" -c "import torch, safetensors" 2>/dev/null; then
    echo "interop: $PYTHON has no torch and safetensors; give one that has with PYTHON=..."
    exit 1
fi
"$PYTHON" tests/interop/check.py "$BUILD"
exec "$PYTHON" tests/interop/check_lora.py "$BUILD"
