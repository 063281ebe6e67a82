#!/usr/bin/env bash
# What grows with the number of ranks: simulated times up to 10,000 ranks (with a picture), and connections and memory of a rank,
# measured with up to 64 processes and computed beyond: bash benches/scale.sh [NAME]
set -euo pipefail
cd "$(dirname "$0")/.."
name="${1:-$(date +%F)}-scale"
out="benches/record/$name.md"
cargo build --release --bins
ringfold=target/release/ringfold
run() { printf '\n    $ %s\n' "$*"; "$@" 2>&1 | sed 's/^/    /'; }
{
    echo "# What grows with the number of ranks, $(date +%F)"
    echo
    echo "- machine: $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1), $(nproc) CPUs," \
        "$(free -g | awk '/^Mem/ {print $2}') GiB, Linux $(uname -r)"
    echo "- load before: $(cut -d' ' -f1-3 /proc/loadavg)"
    echo "- commit: $(git describe --always --dirty)"
    printf '\n## Simulating every all_reduce algorithm among 10,000 ranks (asked: under 30 s)\n'
    TIMEFORMAT='    %R s'
    time run "$ringfold" plan simulate -n 10000 --bytes 100M --latency 20us --bandwidth 10Gbit
    time run "$ringfold" plan simulate -n 10000 --bytes 1M --latency 20us --bandwidth 10Gbit \
        --ranks-per-host 8 --hosts-per-rack 25
    printf '\n## Time against ranks\n\n![1 MiB](%s.svg)\n' "$name"
    time run "$ringfold" plan simulate -n 64..10000 --bytes 1M --latency 20us --bandwidth 10Gbit \
        --svg "benches/record/$name.svg"
    printf '\n## Connections and memory of a rank, measured\n'
    for algorithm in ring recursive_doubling halving_doubling binomial_tree direct; do
        for ranks in 4 16 64; do
            run "$ringfold" plan footprint --measure -n "$ranks" --algorithm "$algorithm"
        done
    done
    printf '\n## And computed\n'
    for ranks in 64 1000 10000; do
        run "$ringfold" plan footprint -n "$ranks"
    done
} > "$out.part" 2>&1
mv "$out.part" "$out"
echo "written: $out"
