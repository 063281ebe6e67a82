#!/usr/bin/env bash
# NVIDIA's own NCCL, on a machine without a GPU: it is installed into an environment of its own in the user's cache, which is made when
# it is first needed.
set -euo pipefail
cd "$(dirname "$0")/.."

cached="${XDG_CACHE_HOME:-$HOME/.cache}/ringfold-nccl"
find_library() { find "$cached" -name libnccl.so.2 2>/dev/null | head -n 1; }
if [ -z "$(find_library)" ]; then
    python3 -m venv "$cached"
    "$cached/bin/pip" install --quiet nvidia-nccl-cu12
fi
RINGFOLD_TEST_NCCL="$(find_library)"
export RINGFOLD_TEST_NCCL
cargo clippy -p ringfold --test nccl_wheel -- -D warnings
cargo test -p ringfold --test nccl_wheel -- --nocapture
