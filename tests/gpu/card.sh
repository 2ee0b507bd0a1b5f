#!/usr/bin/env bash
# All that is to be tried on a card, by value, so that a quarter of an hour with one tells most:
#   card.sh                all steps
#   card.sh tests          those that must pass; `card.sh bench`: those that measure
#   card.sh ops step-8     these
# Each step has a limit of its own, and all together have $SECONDS_IN_ALL: by default a little less than
# the 600 that a command may take on a lent card, enough for the numbers that are asked for, which come first.
# What each said is at once in build/gpu-results/results.jsonl (a line a step) and log.txt, copied to
# $OUT if it is set. Run again, it goes on where it stopped: steps that passed there are not run again.
# (A lent card's own $OUT is emptied before each command. A new one needs build/gpu-results brought along.)
# At the end the numbers are put beside torch's, and beside what is asked for (bars.py). Exit status 0: all
# that ran passed. On a machine without a card, `make gpu-dry` runs the same with the card that is none.
set -uo pipefail
. tests/gpu/env.sh || exit 1
SECONDS_IN_ALL=${SECONDS_IN_ALL:-570}
CONFIG=${CONFIG:-tests/bench/unet860.json}
PEAK=${PEAK:-989} # the card's dense bf16 TFLOP/s; by default an H100's
FEW=${FEW:-8} MANY=${MANY:-32} # batches
kept=$gpu-results results=$gpu-results/results.jsonl log=$gpu-results/log.txt failed=""
mkdir -p "$kept" && touch "$results" "$log"
bring() { [ -z "${OUT:-}" ] || { mkdir -p "$OUT" && cp "$results" "$log" "$OUT"; }; }
wanted=" $* "

# A text as JSON has it.
quoted() { tr -d '\000-\010\013-\037' | sed -e 's/\\/\\\\/g; s/"/\\"/g; s/\t/\\t/g' | sed -e ':a;N;$!ba;s/\n/\\n/g'; }

# try KIND NAME SECONDS COMMAND...
try() {
    local kind=$1 name=$2 limit=$(($3 * ${PATIENCE:-1})) left=$((SECONDS_IN_ALL - SECONDS)) start=$SECONDS status
    shift 3
    case $wanted in "  " | *" $kind "* | *" $name "*) ;; *) return ;; esac
    grep -q "\"step\": \"$name\", \"passed\": true" "$results" && { echo "== $name: passed before"; return; }
    [ "$left" -lt 10 ] && { echo "== $name: no time left"; failed="$failed $name"; return; }
    [ "$limit" -gt "$left" ] && limit=$left
    echo "== $name" | tee -a "$log"
    ours timeout -k 5 "$limit" "$@" >"$kept/now.txt" 2>&1
    status=$?
    cat "$kept/now.txt" >>"$log"
    tail -n 4 "$kept/now.txt"
    [ $status = 0 ] || { failed="$failed $name"; grep -m 8 -E "ERROR|FAILED|rror:" "$kept/now.txt"; echo "   $name: failed ($status)"; }
    printf '{"step": "%s", "passed": %s, "status": %d, "seconds": %d, "card": "%s", "said": "%s"}\n' "$name" \
        "$([ $status = 0 ] && echo true || echo false)" $status $((SECONDS - start)) "$card" \
        "$(tail -c 3000 "$kept/now.txt" | quoted)" >>"$results"
    rm -f "$kept/now.txt"
    bring
}
ours_step() { try bench "$1" "$2" "$gpu/step" "$CONFIG" "$3" "$4" "$5" 77 "$PEAK"; }
ours_pass() { try bench "$1" "$2" "$gpu/pass" "$CONFIG" cuda-bf16 "$3" 77 "$PEAK"; }
"$PYTHON" -c "import torch, diffusers" 2>/dev/null && has_torch=yes || { has_torch=; echo "torch, diffusers: not both here, left out"; }
in_torch() { # NAME SECONDS step|pass BATCH (Python has libraries of its own.)
    [ -n "$has_torch" ] && try bench "$1" "$2" env -u LD_LIBRARY_PATH "$PYTHON" "tests/bench/$3.py" "$CONFIG" "$4" 77
}
sanitizer=${SANITIZER:-$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)}
[ -n "$sanitizer" ] || echo "compute-sanitizer: not here, left out"
sanitized() { # NAME SECONDS TOOL COMMAND...
    local name=$1 limit=$2 tool=$3
    shift 3
    [ -n "$sanitizer" ] && try tests "$name" "$limit" "$sanitizer" --tool "$tool" --error-exitcode 9 "$@"
}
small_step() { echo "$gpu/step recipes/models/base/unet/config.json cuda-bf16 finetune 2 77"; }

ours_step "step-$FEW" 100 cuda-bf16 finetune "$FEW"
in_torch "torch-step-$FEW" 240 step "$FEW"
ours_pass "pass-$FEW" 60 "$FEW"
in_torch "torch-pass-$FEW" 150 pass "$FEW"
try tests ops 120 "$gpu/test_ops"
try tests unet 90 "$gpu/test_unet"
try tests run 150 "$gpu/test_run"
try tests pictures 90 tests/gpu/pictures.sh "$gpu/ckdistill"
ours_step "step-$MANY" 100 cuda-bf16 finetune "$MANY"
in_torch "torch-step-$MANY" 200 step "$MANY"
sanitized memcheck 90 memcheck $(small_step)
sanitized racecheck 90 racecheck $(small_step)
ours_step "lcm-$FEW" 100 cuda-bf16 lcm "$FEW"
case $(ours timeout 20 "$gpu/test_world" cuda 2>&1) in
*libnccl*) echo "== world: no NCCL here" ;;
*) try tests world 90 "$gpu/test_world" ;;
esac
sanitized memcheck-train 120 memcheck "$gpu/ckdistill" run recipes/distill/checkerboard-dmd2.json --device cuda \
    --set steps=3 --set 'evaluate.steps=[1]' --set evaluate.teacher=false -q -f -o "$kept/run"
sanitized racecheck-ops 150 racecheck "$gpu/test_ops"
ours_step "step-$FEW-tf32" 60 cuda-tf32 finetune "$FEW"
ours_step "step-$FEW-f32" 60 cuda finetune "$FEW"
# One process a card, each with such a batch: of cards that lose nothing the step is as long as one's.
if [ "$cards" -gt 1 ] && command -v mpirun >/dev/null; then
    try bench "cards-$cards" 120 mpirun --allow-run-as-root --oversubscribe -n "$cards" "$gpu/step" "$CONFIG" \
        cuda-bf16 finetune "$FEW" 77 "$PEAK"
fi
rm -rf "$kept/run"

"$PYTHON" tests/gpu/bars.py "$results" "step-$FEW" "step-$MANY" "pass-$FEW" | tee -a "$log"
bring
[ -z "$failed" ] && { echo "card: all that ran passed; see $results"; exit 0; }
echo "card: FAILED:$failed; see $results, $log"
exit 1
