#!/bin/sh
# Every distillation method on the checkerboard: the student's one step (pcm: its two) must be far
# better than its teacher's, and come near the teacher at its best (swd 0.023, off 0.17 in 35 passes).
# With --table, at the end the README's table, of all numbers of passes that a recipe is judged at.
#   tests/checkerboard.sh BUILD [--table]
set -eu
build=${1:-build}
table=${2:-}
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

# "who passes swd off" of every row of a run's metrics.json; Heun's steps are two passes but the last.
rows() {
    awk -F '[\t:,"]+' '
        $2 == "who" { who = $3 } $2 == "how" { how = $3 } $2 == "steps" { steps = $3 }
        $2 == "swd" { swd = $3 }
        $2 == "off" && /^\t\t\t/ { print who, how == "heun" ? 2 * steps - 1 : steps, swd, $3 }
    ' "$work/$1/metrics.json"
}

# The name and summary of the method of a recipe, as `ckdistill methods` has them.
title() {
    name=$(sed -n 's/.*"method": {"name": "\([a-z0-9]*\)".*/\1/p' "recipes/distill/checkerboard-$1.json")
    "$build/ckdistill" methods | sed -n "s/^$name  *\(.*\)/\1 (\`$1\`)/p" | head -1
}

row() {
    rows "$1" | awk -v title="$(title "$1")" '
        $1 == "student" {
            comma = n++ ? ", " : ""
            passes = passes comma $2; swd = swd comma sprintf("%.3f", $3)
            off = off comma sprintf("%.0f%%", 100 * $4)
        }
        END { printf "| %s | %s | %s | %s |\n", title, passes, swd, off }'
}

print_table() {
    echo
    echo '| method | passes | swd | off |'
    echo '|---|---|---|---|'
    rows cd | awk '$1 == "teacher" { printf "| the teacher | %s | %.3f | %.0f%% |\n", $2, $3, 100 * $4 }'
    for one in $methods; do row "$one"; done
}

failed=0
methods='pd cd lcm pcm ecd sfd dmd dmd4 dmd2 scm'
set -- $methods
while [ $# -gt 0 ]; do
    run "$1" & one=$!
    [ $# -gt 1 ] && { run "$2" & two=$!; wait $two; }
    wait $one
    check "$1" || failed=1
    [ $# -gt 1 ] && { check "$2" || failed=1; shift; }
    shift
done
[ "$table" != --table ] || print_table
exit $failed
