#!/usr/bin/env bash
# Merging two models of SD1.5's layout, beside copying and beside other tools, all in one run. The
# commands take turns; the median of each is printed, and its ratio to copying in the same round.
#
#   BUILD       where the programs are
#   PYTHON      an interpreter that may have torch, safetensors, sd-mecha and mergekit
#   BENCH_DIR   where the files go (default $BUILD/bench; about 12 GB for f16)
#   ROUNDS      how often each command runs (default 5; the slow ones run once per three rounds)
#   DTYPES      "f16", or "f16 bf16 f32" (f32 needs 21 GB)
#   PARTS       which of: copy methods lora extract peers mergekit kernels (default all)
set -euo pipefail
BUILD=${BUILD:-build} PYTHON=${PYTHON:-python3} ROUNDS=${ROUNDS:-5} DTYPES=${DTYPES:-f16}
DIR=${BENCH_DIR:-$BUILD/bench} PARTS=${PARTS:-copy methods lora extract peers mergekit kernels}
measure=$BUILD/measure
threads=$(nproc)
mkdir -p "$DIR"
rm -f "$DIR"/result.*

part() { [[ " $PARTS " == *" $1 "* ]]; }
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

# Methods that read their models once and look at every element alone: name, models, parameters.
# (Beside weighted-sum stands linear, a weighted sum of three.)
single_pass='weighted-sum        2 --alpha 0.3
linear               3 --weight 0.5,0.3,0.2
scale                1 --set scale=0.7
weighted-subtraction 2
near-swap            2
tensor-sum           2
add-difference       3
n-average            3
triple-sum           3
sum-twice            3
train-difference     3
similarity           3
multiply-difference  3
multiply-difference  3 --alpha 0.3
task-arithmetic      3
clamp                3
ram                  3
dare-linear          2
dare-linear          3
dare-ties            2
dare-ties            3'

each_method() {
    local number=0 name models parameters
    while read -r name models parameters; do
        number=$((number + 1))
        # shellcheck disable=SC2086
        one "method$number" "$BUILD/ckmerge" $(printf '%s\n' "$A" "$B" "$C" | head -"$models") -m "$name" \
            $parameters -o "$DIR/out" -q
    done <<< "$single_pass"
}

# The medians of a result: wall and processor seconds.
medians() { echo "$(cut -d' ' -f1 "$DIR/result.$1" | median) $(awk '{print $2 + $3}' "$DIR/result.$1" | median)"; }

report_methods() {
    local number=0 name models parameters
    printf '\n%-44s %8s %8s %19s %19s\n' "$dtype, methods of a single pass" "wall s" "CPU s" \
        "to a sum of 2" "of 3 (wall, CPU)"
    while read -r name models parameters; do
        number=$((number + 1))
        echo "$(medians "method$number") $(medians method1) $(medians method2)" |
            awk -v name="$name, $models models $parameters" \
                '{printf "%-44s %8.2f %8.2f %10.2f %8.2f %10.2f %8.2f\n", name, $1, $2, $1/$3, $2/$4, $1/$5, $2/$6}'
        report "method$number" "" > /dev/null
    done <<< "$single_pass"
}

report() {
    local name=$1 text=$2
    [ -s "$DIR/result.$name" ] || return 0
    local wall user sys rss base sum
    wall=$(cut -d' ' -f1 "$DIR/result.$name" | median)
    user=$(cut -d' ' -f2 "$DIR/result.$name" | median)
    sys=$(cut -d' ' -f3 "$DIR/result.$name" | median)
    rss=$(cut -d' ' -f4 "$DIR/result.$name" | median)
    base=$([ -s "$DIR/result.copy" ] && cut -d' ' -f1 "$DIR/result.copy" | median || echo nan)
    sum=$(cut -d' ' -f1 "$DIR/result.ckmerge" | median)
    printf '%-44s %8.2f %8.2f %8.2f %9.1f %8.2f %8.2f\n' "$text" "$wall" "$user" "$sys" "$rss" \
        $(echo "$wall $base $sum" | awk '{print ($2 == "nan" ? "nan" : $1/$2), $1/$3}')
    printf '{"dtype":"%s","name":"%s","wall_s":%s,"user_s":%s,"sys_s":%s,"peak_rss_mib":%s,"sum_s":%s}\n' \
        "$dtype" "$name" "$wall" "$user" "$sys" "$rss" "$sum" >> "$DIR/bench.jsonl"
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
    part copy && has torch && "$PYTHON" -c "import torch, safetensors.torch as s; torch.save({'state_dict': s.load_file('$B')}, '$DIR/b.ckpt')"
    # A LoRA of the kind that is most common, and the largest: all layers, rank 64. They are taken out
    # of two models that have nothing in common, which is the hardest case.
    L=$DIR/lora32.safetensors M=$DIR/lora64.safetensors
    if part lora && [ ! -s "$L" ]; then
        "$BUILD/cktool" extract-lora "$B" "$A" -o "$L" --rank 32 --conv-rank 0 -q || true
    fi
    if part extract || { part lora && [ ! -s "$M" ]; }; then
        one extract "$BUILD/cktool" extract-lora "$B" "$A" -o "$M" --rank 64 -qf
    fi
    for round in $(seq "$ROUNDS"); do
        one ckmerge "$BUILD/ckmerge" "$A" "$B" --alpha 0.3 -o "$DIR/out" -q
        if part copy; then
            one copy sh -c "cat '$B' > /dev/null; cp '$A' '$DIR/out'"
            one copysync sh -c "cat '$B' > /dev/null; cp '$A' '$DIR/out'; sync '$DIR/out'"
            [ -s "$DIR/b.ckpt" ] && one ckpt "$BUILD/ckmerge" "$A" "$DIR/b.ckpt" --alpha 0.3 -o "$DIR/out" -q
            one lock "$BUILD/ckmerge" "$A" "$B" --alpha 0.3 -o "$DIR/out" -q -f --write-recipe "$DIR/r.json" --lock
        fi
        if part lora && [ -s "$M" ]; then
            one lora32 "$BUILD/ckmerge" "$A" --lora "$L:0.8" -o "$DIR/out" -q
            one lora64 "$BUILD/ckmerge" "$A" --lora "$M:0.8" -o "$DIR/out" -q
        fi
        part methods && each_method
        if [ $((round % 3)) = 1 ]; then
            part peers && has torch && one torch "$PYTHON" tests/bench/torch_lazy.py "$A" "$B" 0.3 "$DIR/out"
            part peers && has sd_mecha && one mecha "$PYTHON" tests/bench/mecha.py "$A" "$B" 0.3 "$DIR/out"
            if part mergekit && has mergekit; then
                mergekit ties "$B $C -m ties" "$B $C" "normalize: true"
                mergekit dare_ties "$B $C -m dare-ties" "$B $C" "normalize: false"
                mergekit slerp "$B -m slerp --alpha 0.3" "$B" "t: 0.3"
                mergekit model_stock "$B $C -m model-stock" "$B $C" "filter_wise: false"
            fi
        fi
    done
    echo
    printf '%-44s %8s %8s %8s %9s %8s %8s\n' "$dtype, $(du -h "$A" | cut -f1) a model" "wall s" "user s" "sys s" \
        "RSS MiB" "to copy" "to sum"
    report copy "cat B >/dev/null; cp A OUT"
    report copysync "the same, and wait for the disk (sync)"
    report ckmerge "ckmerge A B --alpha 0.3"
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
        [ -s "$DIR/result.mergekit-$method" ] && echo "$(medians "mergekit-$method") $(medians "ours-$method")" |
            awk '{printf "    mergekit takes %.1f times as long, %.1f times the processor\n", $1/$3, $2/$4}'
    done
    part methods && report_methods
    echo
    read -r reading writing < <("$BUILD/limits" "$A" "$B" "$DIR/out" "$threads")
    rm -f "$DIR/out" "$DIR/r.json" "$DIR/b.ckpt"
    echo "limits here: $reading s to read both models from the page cache with $threads threads,"
    echo "             $writing s to write one with direct I/O. ckmerge does both at once, and its"
    echo "             arithmetic beside them; cp writes into the page cache, and a disk that is slower"
    echo "             than that finishes after it (ckmerge waits until the file is on the disk)."
    [ "$dtype" = f16 ] || rm -f "$A" "$B" "$C"
done

if part kernels; then
    echo
    echo "start-up, median of 11, ms"
    [ -s "$DIR/sdxl.safetensors" ] || "$BUILD/make_layout" "sdxl file" f16 1 "$DIR/sdxl.safetensors"
    for c in "ckmerge --help" "cktool ls $DIR/sdxl.safetensors"; do
        for _ in $(seq 11); do "$measure" "$BUILD"/$c; done | cut -d' ' -f1 | median |
            awk -v c="${c%% $DIR*}" '{printf "  %-12s %6.1f\n", c, $1 * 1000}'
    done
    echo
    "$BUILD/tests/test_kernels" --bench
fi
rm -f "$DIR"/result.* "$DIR/log" "$DIR/sdxl.safetensors"
echo
echo "figures: $DIR/bench.jsonl"
