#!/bin/sh
# Every distillation method on the checkerboard: the student's one step (pcm: its two) must be far
# better than its teacher's, and come near the teacher at its best (swd 0.023, off 0.17 in 35 passes).
#   tests/checkerboard.sh BUILD
set -eu
build=${1:-build}
work=$(mktemp -d /tmp/ck_checkerboard.XXXXXX)
trap 'rm -rf "$work"' EXIT

run() {
    start=$(date +%s)
    "$build/ckdistill" run "recipes/distill/checkerboard-$1.json" -o "$work/$1" -q
    echo $(($(date +%s) - start)) > "$work/$1.seconds"
}

check() {
    # The first "swd" outside of the rows is the student's at its fewest steps.
    swd=$(sed -n 's/^\t"swd":\t\([0-9.e-]*\),*$/\1/p' "$work/$1/metrics.json")
    off=$(sed -n 's/^\t"off":\t\([0-9.e-]*\),*$/\1/p' "$work/$1/metrics.json")
    printf '%-4s swd %.4f (below 0.06)  off %.3f (below 0.35)  %s s\n' "$1" "$swd" "$off" \
        "$(cat "$work/$1.seconds")"
    awk "BEGIN { exit !($swd < 0.06 && $off < 0.35) }" || { echo "checkerboard-$1 fails"; return 1; }
}

failed=0
set -- pd cd lcm pcm ecd sfd dmd dmd4 dmd2 scm
while [ $# -gt 0 ]; do
    run "$1" & one=$!
    [ $# -gt 1 ] && { run "$2" & two=$!; wait $two; }
    wait $one
    check "$1" || failed=1
    [ $# -gt 1 ] && { check "$2" || failed=1; shift; }
    shift
done
exit $failed
