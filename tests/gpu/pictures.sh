#!/usr/bin/env bash
# Pictures of the tiny model from the same noise, on a card beside the processor's: pictures.sh CKDISTILL
set -euo pipefail
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
near() { "${PYTHON:-python3}" tests/gpu/near.py "$out/cpu.safetensors" "$out/$1.safetensors" "$2"; }
for device in cpu cuda cuda-tf32 cuda-bf16; do
    "$1" sample --model recipes/models/base --prompt bag --steps 8 --device "$device" -q \
        -o "$out/$device.png" --latents-out "$out/$device.safetensors"
    case $device in
    cuda) near $device 1e-3 ;;
    cuda-tf32) near $device 3e-2 ;;
    cuda-bf16) near $device 1e-1 ;; # (the card that is none: 0.041)
    esac
done
