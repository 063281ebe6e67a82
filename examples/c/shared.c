/* Shared tensors: memory that the ranks of a host see of each other, the fastest there is. */
#define _POSIX_C_SOURCE 200809L
#include <ringfold.h>
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    rf_error error = RF_ERROR_INIT;
    rf_comm *comm = NULL;
    enum { COUNT = 1 << 18 };
    void *data = NULL;
    rf_memory *memory = NULL;
    if (rf_comm_create(NULL, &comm, &error) != RF_OK ||
        rf_allocate(comm, COUNT * sizeof(float), &data, &memory, &error) != RF_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    float *gradients = (float *)data;
    for (int i = 0; i < COUNT; i++)
        gradients[i] = 1;
    if (rf_all_reduce(comm, gradients, gradients, COUNT, RF_F32, RF_SUM, NULL, &error) != RF_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    printf("rank %lld: %g, %s\n", (long long)rf_comm_rank(comm), gradients[COUNT - 1],
           rf_memory_is_shared(memory) ? "shared" : "not shared");
    int right = gradients[COUNT - 1] == (float)rf_comm_size(comm);
    rf_memory_release(memory, NULL);

    /* Memory that there is already can be shared where it is: whole pages. */
    void *pages = NULL;
    if (posix_memalign(&pages, 4096, 16 * 4096) != 0)
        return 1;
    float *own = (float *)pages;
    for (int i = 0; i < 16 * 1024; i++)
        own[i] = 7;
    if (rf_register(comm, own, 16 * 4096, &memory, &error) != RF_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    right = right && own[0] == 7 && rf_broadcast(comm, own, own, 16 * 1024, RF_F32, 0, NULL, NULL) == RF_OK;
    right = right && rf_memory_release(memory, NULL) == RF_OK && own[0] == 7;
    free(own);
    rf_comm_release(comm);
    return right ? 0 : 2;
}
