// oneCCL. MPI only starts the ranks and hands the address of rank 0's store round; what is measured and the barriers
// are oneCCL's.
#include "bench.h"
#include <mpi.h>
#include <oneapi/ccl.hpp>

static int rank, ranks;
static ccl::communicator *comm;

static void run(enum collective what, const float *input, float *output, size_t count) {
    size_t block = count / (size_t)ranks;
    switch (what) {
    case ALL_REDUCE: ccl::allreduce(input, output, count, ccl::reduction::sum, *comm).wait(); break;
    case REDUCE: ccl::reduce(input, output, count, ccl::reduction::sum, 0, *comm).wait(); break;
    case BROADCAST: ccl::broadcast(output, count, ccl::datatype::float32, 0, *comm).wait(); break;
    case REDUCE_SCATTER: ccl::reduce_scatter(input, output, block, ccl::reduction::sum, *comm).wait(); break;
    case ALL_GATHER: ccl::allgather(input, output, block, *comm).wait(); break;
    case ALL_TO_ALL: ccl::alltoall(input, output, block, *comm).wait(); break;
    default: ccl::barrier(*comm).wait();
    }
}

static void barrier(void) { ccl::barrier(*comm).wait(); }

static int agree(int number) {
    ccl::broadcast(&number, 1, ccl::datatype::int32, 0, *comm).wait();
    return number;
}

static void largest(double *numbers, int count) {
    ccl::allreduce(numbers, numbers, (size_t)count, ccl::reduction::max, *comm).wait();
}

static void sum(double *numbers, int count) {
    ccl::allreduce(numbers, numbers, (size_t)count, ccl::reduction::sum, *comm).wait();
}

int main(int argc, char **argv) {
    // Its transport by MPI asks for this much.
    int given;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &given);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int status = 1;
    try {
        ccl::init();
        ccl::shared_ptr_class<ccl::kvs> store;
        ccl::kvs::address_type address;
        if (rank == 0) {
            store = ccl::create_main_kvs();
            address = store->get_address();
        }
        MPI_Bcast(address.data(), (int)address.size(), MPI_BYTE, 0, MPI_COMM_WORLD);
        if (rank != 0) store = ccl::create_kvs(address);
        {
            ccl::communicator own = ccl::create_communicator(ranks, rank, store);
            comm = &own;
            struct library library = {rank, ranks, run, barrier, agree, largest, sum, 1};
            status = bench_main(library, argc, argv);
        }
    } catch (const std::exception &error) {
        fprintf(stderr, "oneCCL: %s\n", error.what());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    MPI_Finalize();
    return status;
}
