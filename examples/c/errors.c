/* What errors tell: a call that is refused, and ranks that disagree. */
#include <ringfold.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    rf_error error = RF_ERROR_INIT;
    rf_comm *comm = NULL;
    if (rf_comm_create(NULL, &comm, &error) != RF_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    int64_t rank = rf_comm_rank(comm), size = rf_comm_size(comm);
    double data[4] = {1, 2, 3, 4};

    /* Refused: nothing was sent, nothing has changed, and the group is sound. */
    rf_status status = rf_broadcast(comm, data, data, 4, RF_F64, size, NULL, &error);
    if (status != RF_INVALID_ARGUMENT || error.kind != RF_KIND_REFUSED || data[0] != 1)
        return 2;
    printf("rank %lld: refused: %s\n", (long long)rank, error.text);

    /* Rank 0 asks for three elements where the others ask for four: every rank gets the same error, which says so. */
    status = rf_all_reduce(comm, data, data, rank == 0 ? 3 : 4, RF_F64, RF_SUM, NULL, &error);
    if (size == 1) {
        rf_comm_release(comm);
        return status == RF_OK ? 0 : 3;
    }
    if (status != RF_MISMATCH || error.kind != RF_KIND_FAILED || strcmp(error.collective, "all_reduce") != 0)
        return 3;
    printf("rank %lld: failed: %s\n", (long long)rank, error.text);

    /* The group has failed, and says so from now on. */
    if (data[0] != 1 || rf_barrier(comm, NULL, NULL) != RF_MISMATCH || rf_comm_failure(comm, NULL) != RF_MISMATCH)
        return 4;
    rf_comm_release(comm);
    return 0;
}
