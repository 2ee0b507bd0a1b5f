#!/usr/bin/env bash
# The tests of the backends "cuda" and "cuda-bf16" on a card: every operation against the reference (test_ops), a
# whole UNet, its gradients and ten steps of AdamW against torch's (test_unet), runs that are killed
# and go on to the same bits, and losses beside the processor's (test_run); pictures of the tiny
# model beside the processor's; NCCL with one card and, where there are two and mpirun, runs of two
# processes beside those of one (test_world); then compute-sanitizer where it is. All are run even if
# one fails.
set -uo pipefail
. tests/gpu/env.sh || exit 1
failed=""
try() { echo "== $*"; ours timeout 240 "$@" || failed="$failed; $*"; }
try "$gpu/test_ops"
try "$gpu/test_unet"
try "$gpu/test_run"
case $(ours "$gpu/test_world" cuda 2>&1) in
*libnccl*) echo "NCCL: not found, left out" ;;
*) try "$gpu/test_world" ;;
esac
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for device in cpu cuda cuda-tf32 cuda-bf16; do
    try "$gpu/ckdistill" sample --model recipes/models/base --prompt bag --steps 8 --device $device -q \
        -o "$out/$device.png" --latents-out "$out/$device.safetensors"
done
near() { "$PYTHON" tests/gpu/near.py "$@" || failed="$failed; near $*"; }
near "$out"/{cpu,cuda}.safetensors 1e-3
near "$out"/{cpu,cuda-tf32}.safetensors 3e-2
near "$out"/{cpu,cuda-bf16}.safetensors 1e-1 # (the card that is none: 0.041)
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
if [ -n "$sanitizer" ]; then
    try "$sanitizer" --error-exitcode 9 "$gpu/ckdistill" sample --model recipes/models/base --prompt bag \
        --steps 1 --device cuda-bf16 -q -f -o "$out/cuda-bf16.png"
    try "$sanitizer" --error-exitcode 9 "$gpu/ckdistill" run recipes/distill/checkerboard-dmd2.json \
        --device cuda --set steps=3 --set 'evaluate.steps=[1]' --set evaluate.teacher=false -q -o "$out/run"
else
    echo "compute-sanitizer: not found, left out"
fi
[ -z "$failed" ] && { echo "test-gpu: all passed"; exit 0; }
echo "test-gpu: FAILED:$failed"
exit 1
