#!/usr/bin/env bash
# What other work on the machine does to two ranks that share memory, and they to it: bash benches/load.sh [RINGFOLD]
# Busy loops count what they do in the same seconds, alone and beside the ranks.
set -euo pipefail
cd "$(dirname "$0")/.."
ringfold="${1:-target/release/ringfold}"
[ -x "$ringfold" ] || cargo build --release --bins
loops=()
counts=$(mktemp -d)
trap 'kill "${loops[@]}" 2>/dev/null || true; rm -rf "$counts"' EXIT

# Turns of a loop in five seconds, a file a loop.
busy() {
    python3 - "$1" <<'PYTHON'
import sys, time
end, turns = time.monotonic() + 5, 0
while time.monotonic() < end:
    for _ in range(1000):
        turns += 1
print(turns // 1000, file=open(sys.argv[1], "w"))
PYTHON
}
begin() {
    loops=()
    for ((i = 0; i < $1; i++)); do
        busy "$counts/$i" &
        loops+=($!)
    done
    sleep 0.5
}
finish() {
    wait "${loops[@]}"
    awk '{sum += $1} END {print sum}' "$counts"/*
    rm -f "$counts"/*
}
time_of() {
    "$ringfold" perf all_reduce -n 2 -b "$1" -e "$1" --fresh --backend shm --seconds 0.5 --json | sed -n 's/.*"in_place":true.*"time_us":\([0-9.]*\).*/\1/p'
}

echo "- machine: $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1), $(nproc) CPUs, Linux $(uname -r), $(date +%F)"
echo
echo "| busy loops | 8 B (us) | 1 MiB (us) | the loops' turns, alone | beside the ranks |"
echo "|---|---|---|---|---|"
echo "| 0 | $(time_of 8) | $(time_of 1M) | | |"
for number in 1 2 4; do
    begin "$number"
    alone=$(finish)
    begin "$number"
    little=$(time_of 8)
    much=$(time_of 1M)
    while kill -0 "${loops[0]}" 2>/dev/null; do "$ringfold" perf all_reduce -n 2 -b 8 -e 8 --backend shm --seconds 0.2 >/dev/null; done
    echo "| $number | $little | $much | $alone | $(finish) |"
done
