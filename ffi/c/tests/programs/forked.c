/* What is forked off a rank is nobody in the group: it gets errors, and its parent is sound. Two ranks or more, or one. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    rf_comm *comm = NULL;
    WELL(rf_comm_create(NULL, &comm, &error));
    const int n = (int)rf_comm_size(comm);
    static float data[100000];
    data[0] = 1;
    rf_request *request = NULL;
    rf_prepared *prepared = NULL;
    rf_options options = RF_OPTIONS_INIT;
    options.request = &request;
    WELL(rf_barrier(comm, NULL, &error));
    if (rf_comm_rank(comm) == 0)
        WELL(rf_all_reduce(comm, data, data, 100000, RF_F32, RF_SUM, &options, &error));
    options.request = NULL;
    options.prepared = &prepared;
    WELL(rf_broadcast(comm, data + 1, data + 1, 1, RF_F32, 0, &options, &error));
    void *memory = NULL;
    rf_memory *handle = NULL;
    WELL(rf_allocate(comm, 4096, &memory, &handle, &error));

    const pid_t child = fork();
    HOLDS(child >= 0);
    if (child == 0) {
        alarm(60);
        REFUSED(rf_barrier(comm, NULL, &error), RF_UNSUPPORTED, "forked");
        HOLDS(error.kind == RF_KIND_REFUSED);
        rf_comm *other = NULL;
        REFUSED(rf_comm_duplicate(comm, &other, &error), RF_UNSUPPORTED, "forked");
        REFUSED(rf_prepared_run(prepared, &error), RF_UNSUPPORTED, "forked");
        REFUSED(rf_prepared_start(prepared, &error), RF_UNSUPPORTED, "forked");
        if (request != NULL) {
            REFUSED(rf_request_wait(request, -1, &error), RF_UNSUPPORTED, "forked");
            REFUSED(rf_request_test(request, &error), RF_UNSUPPORTED, "forked");
        }
        WELL(rf_comm_abort(comm, "the child has no say"));
        rf_request_release(request);
        rf_prepared_release(prepared);
        WELL(rf_memory_release(handle, &error));
        rf_comm_release(comm);
        /* It can be a rank of a group of its own. */
        rf_config config = RF_CONFIG_INIT;
        config.flags = RF_CONFIG_BARE;
        WELL(rf_comm_create(&config, &comm, &error));
        WELL(rf_all_reduce(comm, data, data, 1, RF_F32, RF_SUM, NULL, &error));
        rf_comm_release(comm);
        _exit(0);
    }
    int status = 1;
    HOLDS(waitpid(child, &status, 0) == child && status == 0);
    if (request == NULL)
        WELL(rf_all_reduce(comm, data, data, 100000, RF_F32, RF_SUM, NULL, &error));
    else
        WELL(rf_request_wait(request, -1, &error));
    HOLDS(data[0] == (float)n);
    WELL(rf_prepared_run(prepared, &error));
    rf_request_release(request);
    rf_prepared_release(prepared);
    WELL(rf_memory_release(handle, &error));
    WELL(rf_barrier(comm, NULL, &error));
    rf_comm_release(comm);
    puts("the parent is sound");
    return 0;
}
