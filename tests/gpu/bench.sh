#!/usr/bin/env bash
# Whole steps of training of a UNet of Stable Diffusion 1.5's size (860 million parameters, latents of
# 64 x 64, 77 tokens) on a card: finetuning with batches of 8 and 32, LCM with 8; beside torch where
# $PYTHON has it with diffusers. PEAK: the card's dense bf16 TFLOP/s; by default an H100's.
set -uo pipefail
. tests/gpu/env.sh || exit 1
PEAK=${PEAK:-989} config=tests/bench/unet860.json
step() { ours timeout 120 "$gpu/step" $config "$@" 77 "$PEAK" || echo "step $*: failed ($?)"; }
for device in cuda-bf16 cuda-tf32 cuda; do step $device finetune 8; done
step cuda-bf16 finetune 32
step cuda-bf16 lcm 8
# One process a card, each with a batch of 8: of cards that lose nothing the step is as long as one's.
cards=$(nvidia-smi -L | wc -l)
if [ "$cards" -gt 1 ] && command -v mpirun >/dev/null; then
    ours timeout 180 mpirun --allow-run-as-root --oversubscribe -n "$cards" "$gpu/step" $config cuda-bf16 \
        finetune 8 77 "$PEAK" || echo "$cards cards: failed ($?)"
else
    echo "several cards: $cards here, mpirun $(command -v mpirun || echo 'not found'); left out"
fi
if "$PYTHON" -c "import torch, diffusers" 2>/dev/null; then
    for batch in 8 32; do
        timeout 240 "$PYTHON" tests/bench/step.py $config $batch 77 2>/dev/null ||
            echo "torch, batch $batch: failed ($?)"
    done
else
    echo "torch: not found (PYTHON=... names an interpreter that has torch and diffusers)"
fi
