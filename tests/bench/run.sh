#!/usr/bin/env bash
# Merging two models of SD1.5's layout, beside copying and beside other tools, all in one run. The
# commands take turns; the median of each is printed, and its ratio to copying in the same round.
#
#   BUILD       where the programs are
#   PYTHON      an interpreter that may have torch, safetensors, sd-mecha and mergekit
#   BENCH_DIR   where the files go (default $BUILD/bench; about 12 GB for f16)
#   ROUNDS      how often each command runs (default 5; the slow ones run once per three rounds)
#   DTYPES      "f16", or "f16 bf16 f32" (f32 needs 21 GB)
set -euo pipefail
BUILD=${BUILD:-build} PYTHON=${PYTHON:-python3} ROUNDS=${ROUNDS:-5} DTYPES=${DTYPES:-f16}
DIR=${BENCH_DIR:-$BUILD/bench}
measure=$BUILD/measure
threads=$(nproc)
mkdir -p "$DIR"
rm -f "$DIR"/result.*

has() { "$PYTHON" -c "import $1" 2>/dev/null; }
warm() { cat "$@" > /dev/null; }
median() { sort -n | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }

# one NAME COMMAND...: runs it on warm files, notes "wall user sys rss" under the name.
one() {
    local name=$1; shift
    rm -f "$DIR/out"
    sync
    warm "$A" "$B" "$C" $([ -s "$DIR/b.ckpt" ] && echo "$DIR/b.ckpt")
    "$measure" "$@" >> "$DIR/result.$name" 2>"$DIR/log" || { echo "$name failed:"; tail -3 "$DIR/log"; return; }
    rm -f "$DIR/out"
}

# mergekit METHOD OURS MODELS PARAMETERS: the same merge by both; MODELS are mergekit's, A its base.
mergekit() {
    local method=$1 ours=$2 models=$3 parameters=$4
    { printf 'merge_method: %s\nbase_model: %s\nmodels:\n' "$method" "$(realpath "$A")"
      for m in $models; do printf '  - model: %s\n    parameters: {weight: 1, density: 0.5}\n' "$(realpath "$m")"; done
      printf 'parameters: {%s}\ndtype: float16\n' "$parameters"; } > "$DIR/mergekit.yml"
    # shellcheck disable=SC2086
    one "ours-$method" "$BUILD/ckmerge" "$A" $ours -o "$DIR/out" -q
    one "mergekit-$method" "$PYTHON" -c "from mergekit.scripts.merge_raw_pytorch import main; main()" \
        "$DIR/mergekit.yml" "$DIR/mergekit" --no-write-model-card
    rm -rf "$DIR/mergekit"
}

report() {
    local name=$1 text=$2
    [ -s "$DIR/result.$name" ] || return 0
    local wall user sys rss base
    wall=$(cut -d' ' -f1 "$DIR/result.$name" | median)
    user=$(cut -d' ' -f2 "$DIR/result.$name" | median)
    sys=$(cut -d' ' -f3 "$DIR/result.$name" | median)
    rss=$(cut -d' ' -f4 "$DIR/result.$name" | median)
    base=$(cut -d' ' -f1 "$DIR/result.copy" | median)
    printf '%-44s %8.2f %8.2f %8.2f %9.1f %8.2f\n' "$text" "$wall" "$user" "$sys" "$rss" \
        "$(echo "$wall $base" | awk '{print $1/$2}')"
    printf '{"dtype":"%s","name":"%s","wall_s":%s,"user_s":%s,"sys_s":%s,"peak_rss_mib":%s,"copy_s":%s}\n' \
        "$dtype" "$name" "$wall" "$user" "$sys" "$rss" "$base" >> "$DIR/bench.jsonl"
}

: > "$DIR/bench.jsonl"
echo "$(uname -sr), $threads processors, $(awk -F: '/model name/{print $2; exit}' /proc/cpuinfo)"
for dtype in $DTYPES; do
    A=$DIR/a.$dtype.safetensors B=$DIR/b.$dtype.safetensors C=$DIR/c.$dtype.safetensors
    rm -f "$DIR"/result.*
    seed=1
    for m in "$A" "$B" "$C"; do
        [ -s "$m" ] || "$BUILD/make_layout" "sd1 file" "$dtype" $seed "$m"
        seed=$((seed + 1))
    done
    has torch && "$PYTHON" -c "import torch, safetensors.torch as s; torch.save({'state_dict': s.load_file('$B')}, '$DIR/b.ckpt')"
    # A LoRA of the kind that is most common, and the largest: all layers, rank 64. They are taken out
    # of two models that have nothing in common, which is the hardest case.
    L=$DIR/lora32.safetensors M=$DIR/lora64.safetensors
    if [ ! -s "$M" ]; then
        "$BUILD/cktool" extract-lora "$B" "$A" -o "$L" --rank 32 --conv-rank 0 -q || true
    fi
    [ -s "$L" ] && one extract "$BUILD/cktool" extract-lora "$B" "$A" -o "$M" --rank 64 -qf
    for round in $(seq "$ROUNDS"); do
        one copy sh -c "cat '$B' > /dev/null; cp '$A' '$DIR/out'"
        one copysync sh -c "cat '$B' > /dev/null; cp '$A' '$DIR/out'; sync '$DIR/out'"
        one ckmerge "$BUILD/ckmerge" "$A" "$B" --alpha 0.3 -o "$DIR/out" -q
        one adddiff "$BUILD/ckmerge" "$A" "$B" "$C" -m add-difference -o "$DIR/out" -q
        [ -s "$M" ] && one lora32 "$BUILD/ckmerge" "$A" --lora "$L:0.8" -o "$DIR/out" -q
        [ -s "$M" ] && one lora64 "$BUILD/ckmerge" "$A" --lora "$M:0.8" -o "$DIR/out" -q
        [ -s "$DIR/b.ckpt" ] && one ckpt "$BUILD/ckmerge" "$A" "$DIR/b.ckpt" --alpha 0.3 -o "$DIR/out" -q
        one lock "$BUILD/ckmerge" "$A" "$B" --alpha 0.3 -o "$DIR/out" -q -f --write-recipe "$DIR/r.json" --lock
        if [ $((round % 3)) = 1 ]; then
            has torch && one torch "$PYTHON" tests/bench/torch_lazy.py "$A" "$B" 0.3 "$DIR/out"
            if has mergekit; then
                mergekit ties "$B $C -m ties" "$B $C" "normalize: true"
                mergekit dare_ties "$B $C -m dare-ties" "$B $C" "normalize: false"
                mergekit slerp "$B -m slerp --alpha 0.3" "$B" "t: 0.3"
                mergekit model_stock "$B $C -m model-stock" "$B $C" "filter_wise: false"
            fi
            has sd_mecha && one mecha "$PYTHON" tests/bench/mecha.py "$A" "$B" 0.3 "$DIR/out"
        fi
    done
    echo
    printf '%-44s %8s %8s %8s %9s %8s\n' "$dtype, $(du -h "$A" | cut -f1) a model" "wall s" "user s" "sys s" "RSS MiB" "to copy"
    report copy "cat B >/dev/null; cp A OUT"
    report copysync "the same, and wait for the disk (sync)"
    report ckmerge "ckmerge A B --alpha 0.3"
    report adddiff "ckmerge A B C -m add-difference"
    report lora32 "ckmerge A --lora (rank 32, no 3x3 layers)"
    report lora64 "ckmerge A --lora (rank 64, all layers)"
    report extract "cktool extract-lora B A --rank 64 (once)"
    report ckpt "ckmerge A B.ckpt (the same B, by torch.save)"
    report lock "ckmerge A B --lock (three sha256)"
    report torch "torch + safetensors, lazy, one tensor a time"
    report mecha "sd-mecha"
    for method in ties dare_ties slerp model_stock; do
        report "ours-$method" "ckmerge, $method"
        report "mergekit-$method" "mergekit-pytorch, $method"
    done
    read -r reading writing < <("$BUILD/limits" "$A" "$B" "$DIR/out" "$threads")
    rm -f "$DIR/out" "$DIR/r.json" "$DIR/b.ckpt"
    echo "limits here: $reading s to read both models from the page cache with $threads threads,"
    echo "             $writing s to write one with direct I/O. ckmerge does both at once, and its"
    echo "             arithmetic beside them; cp writes into the page cache, and a disk that is slower"
    echo "             than that finishes after it (ckmerge waits until the file is on the disk)."
    [ "$dtype" = f16 ] || rm -f "$A" "$B" "$C"
done

echo
echo "start-up, median of 11, ms"
[ -s "$DIR/sdxl.safetensors" ] || "$BUILD/make_layout" "sdxl file" f16 1 "$DIR/sdxl.safetensors"
for c in "ckmerge --help" "cktool ls $DIR/sdxl.safetensors"; do
    for _ in $(seq 11); do "$measure" "$BUILD"/$c; done | cut -d' ' -f1 | median |
        awk -v c="${c%% $DIR*}" '{printf "  %-12s %6.1f\n", c, $1 * 1000}'
done
echo
"$BUILD/tests/test_kernels" --bench
rm -f "$DIR"/result.* "$DIR/log" "$DIR/sdxl.safetensors"
echo
echo "figures: $DIR/bench.jsonl"
