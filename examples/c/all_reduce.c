/* Sums gradients among all ranks.
 *
 *     cc all_reduce.c $(pkg-config --cflags --libs ringfold) -o all_reduce
 *     ringfold run -n 4 -- ./all_reduce          (or mpirun -n 4 ./all_reduce)
 */
#include <ringfold.h>
#include <stdio.h>

int main(void) {
    rf_error error = RF_ERROR_INIT;
    rf_comm *comm = NULL;
    if (rf_comm_create(NULL, &comm, &error) != RF_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    float gradients[1000];
    for (int i = 0; i < 1000; i++)
        gradients[i] = (float)(rf_comm_rank(comm) + 1);

    rf_status status = rf_all_reduce(comm, gradients, gradients, 1000, RF_F32, RF_SUM, NULL, &error);
    if (status != RF_OK)
        fprintf(stderr, "%s\n", error.text);
    else
        printf("rank %lld of %lld: %g\n", (long long)rf_comm_rank(comm), (long long)rf_comm_size(comm), gradients[999]);
    rf_comm_release(comm);
    return status == RF_OK ? 0 : 1;
}
