#!/usr/bin/env bash
# Runs test programs one after the other; all run even if one fails. CK_RUNNER may put a program
# such as valgrind in front. One that hangs is ended after CK_TEST_SECONDS and has failed.
set -uo pipefail
# Threads that wait by spinning take the processor from those that work when it is shared.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
failed="" log=$(mktemp)
trap 'rm -f "$log"' EXIT
for t in "$@"; do
    echo "== ${t##*/}"
    # shellcheck disable=SC2086
    timeout -k 10 "${CK_TEST_SECONDS:-1200}" ${CK_RUNNER:-} "$t" 2>&1 |
        tee -a "$log" || failed="$failed ${t##*/}"
done
awk -v programs=$# '$2 == "PASSED" {passed += $4} $2 == "SKIPPED" && $5 ~ /^test/ {skipped += $4}
    END {printf "%d tests in %d programs passed, %d skipped\n", passed, programs, skipped}' "$log"
[ -z "$failed" ] && exit 0
echo "FAILED:$failed"
exit 1
