#!/bin/sh
# Runs each fuzzer of $BUILD for $SECONDS_EACH on its corpus. New inputs go to a scratch folder; a
# crash is kept in $BUILD/crashes and makes the run fail.
set -u
failed=""
mkdir -p "$BUILD/crashes"
for f in "$@"; do
    name=${f#fuzz_}
    scratch=$BUILD/corpus/$name
    mkdir -p "$scratch" "tests/fuzz/corpus/$name"
    echo "== $f for $SECONDS_EACH s"
    "$BUILD/$f" -max_total_time="$SECONDS_EACH" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$BUILD/crashes/$name-" "$scratch" "tests/fuzz/corpus/$name" \
        >"$BUILD/$f.log" 2>&1 || failed="$failed $f"
    grep -E 'stat::number_of_executed_units|ERROR|SUMMARY' "$BUILD/$f.log"
done
if [ -n "$failed" ]; then
    echo "FAILED:$failed (logs and inputs in $BUILD)"
    exit 1
fi
echo "no crash in $# fuzzers"
