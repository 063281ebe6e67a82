#!/usr/bin/env bash
# What ringfold costs over MPI, with two ranks, under Open MPI and MPICH: in their shared memory, and over loopback TCP beside the library's
# own ring. RINGFOLD_BENCH_PROFILE=dev builds for a quick look.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
for mpi in openmpi mpich; do
    built=$(MPICC="mpicc.$mpi" cargo bench --no-run --profile "${RINGFOLD_BENCH_PROFILE:-bench}" -p ringfold --bench mpi \
        --target-dir "target/mpi-$mpi" --no-default-features --features mpi 2>&1 | tee /dev/stderr | grep -o 'target/[^)]*/mpi-[0-9a-f]*' | tail -1)
    printf '\n## %s\n\n' "$mpi"
    "mpirun.$mpi" -n 2 "$built"
    if [ "$mpi" = openmpi ]; then
        printf '\n## %s over TCP, its own ring\n\n' "$mpi"
        mpirun.openmpi -n 2 --mca btl tcp,self --mca btl_tcp_if_include lo --mca coll_tuned_use_dynamic_rules 1 \
            --mca coll_tuned_allreduce_algorithm 4 "$built" 1048576 16777216 4
    fi
done
