/* Operations that go on while something else is computed: waited for, polled, told by a function, run again and again. */
#define _POSIX_C_SOURCE 200809L
#include <poll.h>
#include <ringfold.h>
#include <stdio.h>
#include <unistd.h>

static void complete(void *context, rf_status status, const rf_error *error) {
    /* On a thread of the library: pass it on, and do not block. */
    char well = status == RF_OK && error->status == RF_OK;
    if (write(*(int *)context, &well, 1) != 1)
        perror("write");
}

#define CHECK(call)                                       \
    do {                                                  \
        if ((call) != RF_OK) {                            \
            fprintf(stderr, "%s: %s\n", #call, error.text); \
            return 1;                                     \
        }                                                 \
    } while (0)

int main(void) {
    rf_error error = RF_ERROR_INIT;
    rf_comm *comm = NULL;
    CHECK(rf_comm_create(NULL, &comm, &error));
    static float layers[3][100000];
    rf_request *requests[3] = {NULL, NULL, NULL};
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 100000; j++)
            layers[i][j] = (float)(i + 1);
        rf_options options = RF_OPTIONS_INIT;
        options.request = &requests[i]; /* started, not carried out */
        CHECK(rf_all_reduce(comm, layers[i], layers[i], 100000, RF_F32, RF_MEAN, &options, &error));
    }
    /* Compute something else here; then: wait for the first, */
    CHECK(rf_request_wait(requests[0], -1, &error));

    /* let the event loop wait for the second, */
    struct pollfd event = {-1, POLLIN, 0};
    CHECK(rf_request_descriptor(requests[1], &event.fd, &error));
    if (poll(&event, 1, 60000) != 1)
        return 2;
    CHECK(rf_request_test(requests[1], &error));

    /* and have a function told of the third. */
    int told[2];
    char well = 0;
    if (pipe(told) != 0)
        return 2;
    CHECK(rf_request_on_complete(requests[2], complete, &told[1], NULL, &error));
    if (read(told[0], &well, 1) != 1 || !well)
        return 2;
    for (int i = 0; i < 3; i++) {
        if (layers[i][99999] != (float)(i + 1))
            return 3;
        rf_request_release(requests[i]);
    }

    /* What is called in each step of a loop is checked once, and run again and again. */
    rf_prepared *step = NULL;
    rf_options options = RF_OPTIONS_INIT;
    options.prepared = &step;
    CHECK(rf_all_reduce(comm, layers[0], layers[0], 1000, RF_F32, RF_SUM, &options, &error));
    for (int i = 0; i < 10; i++) {
        layers[0][0] = 1;
        CHECK(rf_prepared_run(step, &error));
        if (layers[0][0] != (float)rf_comm_size(comm))
            return 4;
    }
    rf_prepared_release(step);
    rf_comm_release(comm);
    puts("well");
    return 0;
}
