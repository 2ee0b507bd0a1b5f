#!/usr/bin/env bash
# Sampling with models of published sizes and random weights: seconds a step, and the peak of memory beside what
# `ckdistill info` said. Needs 9 GB of disk and 12 GB of memory. A step is the difference of a run of three and one of
# one; seconds are the processor's, of one thread, so that what else runs matters little.
#
#   BUILD       where the programs are
#   BENCH_DIR   where the files go (default $BUILD/sizes); they are removed
#   SIZE        of the images, along a side (default 512)
#   MODELS      "sd1 sdxl"
#   DEVICES     "cpu-bf16 cpu"
set -euo pipefail
BUILD=${BUILD:-build} SIZE=${SIZE:-512} MODELS=${MODELS:-sd1 sdxl} DEVICES=${DEVICES:-cpu-bf16 cpu}
DIR=${BENCH_DIR:-$BUILD/sizes}
export OMP_NUM_THREADS=1
mkdir -p "$DIR"
trap 'rm -rf "$DIR"' EXIT

# sample MODEL DEVICE STEPS: wall, user, system seconds, peak in MiB.
sample() {
    "$BUILD/measure" "$BUILD/ckdistill" sample --model "$1" --tokenizer tests/data/tokenizer --device "$2" \
        --steps "$3" --cfg 1 --size "${SIZE}x$SIZE" --prompt "a cat" -qfo "$DIR/picture.png"
}

for model in $MODELS; do
    file=$DIR/$model.safetensors
    "$BUILD/make_layout" "$model file" bf16 1 "$file"
    for device in $DEVICES; do
        said=$("$BUILD/ckdistill" info --model "$file" --device "$device" |
            awk '/^network/{n=$2} $1 == 1 {print n, $2, $3}')
        read -r parameters bytes unit <<< "$said"
        one=$(sample "$file" "$device" 1)
        three=$(sample "$file" "$device" 3)
        echo "$one $three" | awk -v what="$model, $parameters million parameters, $device, $SIZE x $SIZE" \
            -v said="$bytes $unit" '{printf "%s: %.1f s a step, the rest %.1f s; peak %.2f GB (said: %s)\n", what,
                ($6 + $7 - $2 - $3) / 2, $2 + $3 - ($6 + $7 - $2 - $3) / 2, $8 * 1048576 / 1e9, said}'
    done
    rm "$file"
done
