#!/usr/bin/env bash
# Predicts all_reduce among 2, 4 and 8 ranks on this host over TCP from a probe of a second, measures it, and writes down how
# far the prediction is off: bash benches/predict.sh [NAME]
# Run it on a machine that does nothing else; what it writes says how busy the machine was.
set -euo pipefail
cd "$(dirname "$0")/.."
name="${1:-$(date +%F)}-predict"
out="benches/record/$name.md"
cargo build --release --bins
ringfold=target/release/ringfold
{
    echo "# Predicted against measured, $(date +%F)"
    echo
    echo "- machine: $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1), $(nproc) CPUs," \
        "$(free -g | awk '/^Mem/ {print $2}') GiB, Linux $(uname -r)"
    echo "- load before: $(cut -d' ' -f1-3 /proc/loadavg)"
    echo "- commit: $(git describe --always --dirty)"
    echo
    echo "Every algorithm at every size, probe included in the run. Measured: the median over samples of the slowest rank."
    for ranks in 2 4 8; do
        printf '\n## %s ranks\n\n    $ %s plan predict -n %s\n' "$ranks" "$ringfold" "$ranks"
        "$ringfold" plan predict -n "$ranks" 2>&1 | sed 's/^/    /'
    done
} > "$out.part"
mv "$out.part" "$out"
echo "written: $out"
