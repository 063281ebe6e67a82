#!/usr/bin/env bash
# Measures what the project states figures for, and writes them down: bash benches/record.sh [NAME]
# Run it on a machine that does nothing else; what it writes says how busy the machine was.
set -euo pipefail
cd "$(dirname "$0")/.."
name="${1:-$(date +%F)}"
out="benches/record/$name.md"
cargo build --release --bins --examples
ringfold=target/release/ringfold
run() { printf '\n    $ %s\n' "$*"; "$@" 2>&1 | sed 's/^/    /'; }
{
    echo "# $(date +%F)"
    echo
    echo "- machine: $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1), $(nproc) CPUs," \
        "$(free -g | awk '/^Mem/ {print $2}') GiB, Linux $(uname -r)"
    echo "- load before: $(cut -d' ' -f1-3 /proc/loadavg)"
    echo "- compiler: $(rustc --version)"
    echo "- commit: $(git describe --always --dirty)"
    printf '\n## Proving every plan (asked: under 60 s)\n'
    run "$ringfold" plan verify --all
    printf '\n## 64 processes start, form a group, meet and end (asked: the group forms in under 5 s)\n'
    printf '\n    $ time ringfold perf barrier -n 64 --iters 1\n'
    { TIMEFORMAT='    %R s'; time "$ringfold" perf barrier -n 64 --iters 1 >/dev/null; } 2>&1
    printf '\n## A cached plan is looked up (asked: under 1 us), plans are made and proved\n'
    printf '\n    $ cargo bench --bench plans\n'
    cargo bench --bench plans 2>/dev/null | grep -E '^[a-z].*time:|^ +time:|^(a cached|all_reduce)' | sed 's/^/    /'
    for backend in shm tcp; do
        printf '\n## all_reduce over %s on one host, fresh operands\n' "$backend"
        for ranks in 2 4 8; do
            run "$ringfold" perf all_reduce -n "$ranks" --fresh --backend "$backend"
        done
    done
    printf '\n## Links against bare sockets, in turn\n'
    printf '\n    $ cargo bench --bench tcp\n'
    cargo bench --bench tcp 2>/dev/null | grep -vE '^(running|test |$)' | sed 's/^/    /'
    printf '\n## Batches, the fixed order, overlap\n'
    printf '\n    $ cargo bench --bench calls\n'
    cargo bench --bench calls 2>/dev/null | sed 's/^/    /'
    printf '\n## How soon survivors are told (asked: p99 of a death at most 5 ms over shared memory, 50 ms over TCP; of an abort 100 ms)\n'
    printf '\n    $ cargo bench --bench deaths\n'
    cargo bench --bench deaths 2>/dev/null | sed 's/^/    /'
    printf '\n## Kernels beside memcpy\n'
    printf '\n    $ cargo bench --bench kernels -- table\n'
    cargo bench --bench kernels -- table 2>/dev/null | sed 's/^/    /'
    printf '\n## The main job\n'
    run "$ringfold" run -n 4 -- target/release/examples/digits
} > "$out.part"
mv "$out.part" "$out"
echo "written: $out"
