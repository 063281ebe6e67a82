#!/usr/bin/env bash
# MPI: lints, and real processes under the mpirun of Open MPI and that of MPICH. Each MPI has a target directory of its own, since it
# is linked.
set -euo pipefail
cd "$(dirname "$0")/.."

need() { # need FILE PACKAGE...
    [ -e "$1" ] && return
    if ! command -v apt-get >/dev/null; then
        echo "error: $1 is missing; install the package that has it ($2 on Debian)" >&2
        exit 1
    fi
    local root=()
    [ "$(id -u)" = 0 ] || root=(sudo)
    "${root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq "${@:2}" >/dev/null
}

need /usr/bin/mpicc.openmpi libopenmpi-dev openmpi-bin
need /usr/bin/mpicc.mpich libmpich-dev mpich
ls /usr/lib/*/libclang*.so* /usr/lib/llvm*/lib/libclang*.so* >/dev/null 2>&1 || need /nowhere libclang-dev

for mpi in openmpi mpich; do
    printf '\n== MPI: %s\n' "$mpi"
    export MPICC="mpicc.$mpi"
    build=(--target-dir "target/mpi-$mpi" --no-default-features --features cli,mpi)
    cargo clippy -p ringfold --lib --bin ringfold --test mpi --bench mpi "${build[@]}" -- -D warnings
    cargo test -p ringfold --lib "${build[@]}" -- mpi
    cargo test -p ringfold --test mpi "${build[@]}" -- --test-threads=1
done
