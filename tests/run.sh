#!/bin/sh
# Runs test programs one after the other; all run even if one fails. CK_RUNNER may put a program
# such as valgrind in front.
set -u
failed=""
for t in "$@"; do
    echo "== ${t##*/}"
    # shellcheck disable=SC2086
    ${CK_RUNNER:-} "$t" 2>&1 || failed="$failed ${t##*/}"
done
if [ -n "$failed" ]; then
    echo "FAILED:$failed"
    exit 1
fi
echo "all $# test programs passed"
