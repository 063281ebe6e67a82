#!/usr/bin/env bash
# MPI: lints, and real processes under the mpirun of Open MPI and that of MPICH; or, for each directory that is given, the MPI that has its
# bin/mpicc, bin/mpirun and lib there. Each has a target directory of its own, since it is linked, and since the crate that links it is not built
# anew when MPICC changes.
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

unless_there=()
suite() { # suite NAME DIRECTORY: with the MPI whose compiler is in MPICC
    printf '\n== MPI: %s\n' "$1"
    local build=(--target-dir "target/$2" --no-default-features --features cli,mpi)
    cargo clippy -p ringfold --lib --bin ringfold --test mpi --bench mpi "${build[@]}" -- -D warnings
    cargo test -p ringfold --lib "${build[@]}" -- mpi
    cargo test -p ringfold --test mpi "${build[@]}" -- --test-threads=1
    local free
    free=$(awk '/^MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo)
    if [ "$free" -ge 12 ]; then
        cargo test -p ringfold --test mpi "${build[@]}" -- --test-threads=1 --ignored
    else
        unless_there+=("$1")
    fi
}

if [ $# = 0 ]; then
    MPICC=mpicc.openmpi suite "Open MPI" mpi-openmpi
    MPICC=mpicc.mpich suite MPICH mpi-mpich
fi
for directory in "$@"; do
    # What Intel's needs beside its library is of no meaning to others.
    MPICC="$directory/bin/mpicc" RINGFOLD_TEST_MPIRUN="$directory/bin/mpirun" LD_LIBRARY_PATH="$directory/lib" \
        I_MPI_ROOT="$directory" FI_PROVIDER_PATH="$directory/lib" \
        suite "$directory" "mpi-$(printf %s "$directory" | cksum | cut -d ' ' -f 1)"
done
for mpi in "${unless_there[@]}"; do
    echo "NOT RUN with $mpi: counts beyond 2^31, for which 12 GiB of memory have to be free"
done
