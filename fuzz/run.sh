#!/usr/bin/env bash
# Builds every target with coverage instrumentation, on stable Rust, and runs each for a bounded time (seconds).
set -euo pipefail
cd "$(dirname "$0")"
seconds="${1:-10}"
host="$(rustc -vV | sed -n 's/^host: //p')"
# Naming the target keeps the instrumentation out of build scripts.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Ccodegen-units=1"
cargo build --release --target "$host" --bins
for target in fuzz_targets/*.rs; do
    name="$(basename "$target" .rs)"
    echo "fuzzing $name for $seconds s"
    mkdir -p "corpus/$name" "artifacts/$name"
    seeds=(); [ -d "seeds/$name" ] && seeds=("seeds/$name")
    "target/$host/release/$name" "corpus/$name" "${seeds[@]}" -max_total_time="$seconds" -artifact_prefix="artifacts/$name/" \
        -print_final_stats=1 2>&1 | grep -E 'stat::number_of_executed_units|SUMMARY|ERROR|panicked' || true
    if [ -n "$(ls -A "artifacts/$name")" ]; then
        echo "error: $name fails on artifacts/$name" >&2
        exit 1
    fi
done
