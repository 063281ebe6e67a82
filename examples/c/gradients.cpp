// The C++17 wrapper: owners, exceptions, element types.
#include <cstdio>
#include <ringfold.hpp>
#include <vector>

int main() try {
    ringfold::Communicator comm;
    std::vector<double> weights(1000, double(comm.rank() + 1)), all(std::size_t(1000 * comm.size()));
    auto pending = comm.start_all_reduce(weights, RF_MEAN);
    pending.wait();
    comm.broadcast(weights, 0);
    comm.all_gather(weights, all);
    comm.barrier();
    try {
        comm.broadcast(weights, comm.size());
        return 2;
    } catch (const ringfold::Error &error) {
        if (error.status() != RF_INVALID_ARGUMENT)
            return 3;
    }
    std::printf("rank %lld: %g\n", static_cast<long long>(comm.rank()), all.back());
    return all.back() == double(comm.size() + 1) / 2 ? 0 : 4;
} catch (const ringfold::Error &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
