/* One program for every MPI: compiled with each library's own mpicc. */
#include "bench.h"
#include <mpi.h>

static int rank, ranks;

static void run(enum collective what, const float *input, float *output, size_t count) {
    const void *from = input == output ? MPI_IN_PLACE : input;
    int block = (int)(count / (size_t)ranks);
    switch (what) {
    case ALL_REDUCE: MPI_Allreduce(from, output, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD); break;
    case REDUCE:
        MPI_Reduce(rank == 0 ? from : input, rank == 0 ? output : NULL, (int)count, MPI_FLOAT, MPI_SUM, 0,
                   MPI_COMM_WORLD);
        break;
    case BROADCAST: MPI_Bcast(output, (int)count, MPI_FLOAT, 0, MPI_COMM_WORLD); break;
    case REDUCE_SCATTER: MPI_Reduce_scatter_block(from, output, block, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD); break;
    case ALL_GATHER: MPI_Allgather(from, block, MPI_FLOAT, output, block, MPI_FLOAT, MPI_COMM_WORLD); break;
    case ALL_TO_ALL: MPI_Alltoall(from, block, MPI_FLOAT, output, block, MPI_FLOAT, MPI_COMM_WORLD); break;
    default: MPI_Barrier(MPI_COMM_WORLD);
    }
}

static void barrier(void) { MPI_Barrier(MPI_COMM_WORLD); }

static int agree(int number) {
    MPI_Bcast(&number, 1, MPI_INT, 0, MPI_COMM_WORLD);
    return number;
}

static void largest(double *numbers, int count) {
    MPI_Allreduce(MPI_IN_PLACE, numbers, count, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
}

static void sum(double *numbers, int count) {
    MPI_Allreduce(MPI_IN_PLACE, numbers, count, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    struct library library = {rank, ranks, run, barrier, agree, largest, sum, 0};
    int status = bench_main(library, argc, argv);
    MPI_Finalize();
    return status;
}
