#!/usr/bin/env bash
# Everything that has to hold before a change lands. Stops at the first thing that does not.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

need() { # need COMMAND PACKAGE [OPTION]
    command -v "$1" >/dev/null && return
    if ! command -v apt-get >/dev/null; then
        echo "error: $1 is missing; install the package that has it ($2 on Debian)" >&2
        exit 1
    fi
    local root=()
    [ "$(id -u)" = 0 ] || root=(sudo)
    "${root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq "${@:2}" >/dev/null
}

step "what the tests need: a compiler for C++, CMake, Valgrind, Open MPI, MPICH, torchrun (200 MB, 850 MB on the disk)"
need c++ g++
need make make
need cmake cmake
need pkg-config pkg-config
need valgrind valgrind libc6-dbg
need python3 python3
need mpirun.openmpi openmpi-bin
need mpirun.mpich mpich
need script bsdutils
need ip iproute2
need unshare util-linux
cached="${XDG_CACHE_HOME:-$HOME/.cache}/ringfold-torch"
PATH="$PATH:$cached/bin"
# Where the system has no such package: some gigabytes, for it comes with libraries for GPUs.
(need torchrun python3-torch --no-install-recommends) ||
    { python3 -m venv "$cached" && "$cached/bin/pip" install --quiet torch; }

step "formatting"
cargo fmt --all --check

step "clippy"
# All features but mpi, which needs an MPI to link with: tests/mpi.sh has it.
# The tests that need a GPU compile everywhere.
cargo clippy --workspace --all-targets --features ringfold-capi/arrow,ringfold/gpu-tests -- -D warnings
cargo clippy -p ringfold --lib --no-default-features -- -D warnings
cargo clippy -p ringfold-capi --lib -- -D warnings

step "tests, doc examples and examples"
cargo test --workspace --features ringfold-capi/arrow

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --features ringfold-capi/arrow --no-deps

step "the main job of the README"
cargo build --release --bins --examples
target/release/ringfold run -n 4 -- target/release/examples/digits

step "the examples"
target/release/examples/barrier_group
target/release/examples/survivor
target/release/examples/devices

step "every plan is proved"
target/release/ringfold plan verify --all

step "fuzzing what strangers send"
bash fuzz/run.sh "${RINGFOLD_FUZZ_SECONDS:-10}"

printf '\nall is well\n'
