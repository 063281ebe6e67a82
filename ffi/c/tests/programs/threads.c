/* Groups of threads: concurrent use, aborts, deadlines, reductions that fail, and functions that are told. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"
#include <pthread.h>
#include <time.h>

static void *wait_at_barrier(void *comm) {
    static rf_status status;
    do
        status = rf_barrier((rf_comm *)comm, NULL, NULL);
    while (status == RF_CONCURRENT); /* the other one is asking just now */
    return &status;
}

static void pause_ms(long ms) {
    const struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

/* Another thread is in a call: refused, and nothing has happened. Then the call is ended by an abort from outside. */
static void concurrent_use_and_abort(void) {
    rf_comm *comms[2];
    WELL(rf_comm_local(2, comms, &error));
    pthread_t thread;
    HOLDS(pthread_create(&thread, NULL, wait_at_barrier, comms[0]) == 0);
    int64_t one = 1;
    rf_status status = RF_OK;
    /* The other thread is in the barrier until rank 1 calls it. */
    for (int i = 0; i < 2000 && status != RF_CONCURRENT; i++) {
        pause_ms(5);
        status = rf_send(comms[0], &one, 0, RF_I64, 0, NULL, &error);
    }
    HOLDS(status == RF_CONCURRENT && error.kind == RF_KIND_REFUSED && strstr(error.text, "rf_comm_duplicate"));
    rf_counters counters = RF_COUNTERS_INIT;
    WELL(rf_comm_failure(comms[0], &error)); /* these may be asked at any time */
    WELL(rf_comm_counters(comms[0], &counters, &error));
    HOLDS(strstr(rf_comm_table(comms[0]), "all_reduce") != NULL);
    HOLDS(rf_comm_rank(comms[0]) == 0 && rf_comm_size(comms[0]) == 2);
    WELL(rf_comm_abort(comms[0], "enough of this"));
    void *result;
    HOLDS(pthread_join(thread, &result) == 0 && *(rf_status *)result == RF_ABORTED);
    REFUSED(rf_comm_failure(comms[0], &error), RF_ABORTED, "enough of this");
    HOLDS(error.rank == 0 && error.peer == 0 && error.collective[0] == 0);
    /* Rank 1 may still find what rank 0 has sent to the barrier; not a second time. */
    status = rf_barrier(comms[1], NULL, &error);
    HOLDS(status == RF_OK || status == RF_ABORTED);
    REFUSED(rf_barrier(comms[1], NULL, &error), RF_ABORTED, "enough of this");
    HOLDS(error.kind == RF_KIND_FAILED && error.rank == 1 && error.peer == 0);
    rf_comm_release(comms[0]);
    rf_comm_release(comms[1]);
    HOLDS(rf_comm_abort(NULL, NULL) == RF_INVALID_ARGUMENT);
}

static void a_deadline_passes(void) {
    rf_comm *comms[2];
    WELL(rf_comm_local(2, comms, &error));
    rf_options options = RF_OPTIONS_INIT;
    options.deadline_ns = 50000000;
    REFUSED(rf_barrier(comms[0], &options, &error), RF_DEADLINE, "rank 1");
    HOLDS(strcmp(error.collective, "barrier") == 0 && error.sequence == 0);
    rf_comm_release(comms[0]);
    rf_comm_release(comms[1]);
}

static int32_t fail(void *context, const void *left, const void *right, void *into, uint64_t count) {
    (void)context, (void)left, (void)right, (void)into, (void)count;
    return 42;
}

struct told {
    pthread_mutex_t lock;
    int times, destroyed;
    rf_status status;
    char text[RF_ERROR_TEXT];
};

static void complete(void *context, rf_status status, const rf_error *given) {
    struct told *told = (struct told *)context;
    pthread_mutex_lock(&told->lock);
    told->times++;
    told->status = status;
    memcpy(told->text, given->text, sizeof told->text);
    pthread_mutex_unlock(&told->lock);
}

static void gone(void *context) {
    struct told *told = (struct told *)context;
    pthread_mutex_lock(&told->lock);
    told->destroyed++;
    pthread_mutex_unlock(&told->lock);
}

static int is_over(struct told *told) {
    pthread_mutex_lock(&told->lock);
    const int over = told->destroyed;
    pthread_mutex_unlock(&told->lock);
    return over;
}

/* A reduction that fails makes the group fail, on every rank; who has asked to be told is told, also after the request is released. */
static void a_reduction_fails(void) {
    rf_comm *comms[2];
    WELL(rf_comm_local(2, comms, &error));
    rf_reduction_config config = RF_REDUCTION_INIT;
    config.name = "never";
    config.dtype = RF_F32;
    config.combine = fail;
    rf_reduction *never = NULL;
    WELL(rf_reduction_create(&config, &never, &error));
    static struct told told[2] = {{PTHREAD_MUTEX_INITIALIZER, 0, 0, 0, ""}, {PTHREAD_MUTEX_INITIALIZER, 0, 0, 0, ""}};
    float data[2] = {1, 2};
    rf_request *requests[2];
    for (int i = 0; i < 2; i++) {
        rf_options options = RF_OPTIONS_INIT;
        options.reduction = never;
        options.request = &requests[i];
        WELL(rf_all_reduce(comms[i], &data[i], &data[i], 1, RF_F32, RF_CUSTOM, &options, &error));
    }
    rf_reduction_release(never); /* the operations have what they need */
    WELL(rf_request_on_complete(requests[0], complete, &told[0], gone, &error));
    rf_request_release(requests[0]);
    for (int i = 0; i < 4000 && !is_over(&told[0]); i++)
        pause_ms(5);
    HOLDS(told[0].times == 1 && told[0].destroyed == 1 && told[0].status == RF_USER_FAILURE);
    HOLDS(strstr(told[0].text, "never") && strstr(told[0].text, "42"));
    REFUSED(rf_request_wait(requests[1], -1, &error), RF_USER_FAILURE, "42");
    REFUSED(rf_request_test(requests[1], &error), RF_USER_FAILURE, "42");
    /* It is complete already: told at once, on this thread. */
    WELL(rf_request_on_complete(requests[1], complete, &told[1], gone, &error));
    HOLDS(told[1].times == 1 && told[1].destroyed == 1 && told[1].status == RF_USER_FAILURE);
    rf_request_release(requests[1]);
    rf_comm_release(comms[0]);
    rf_comm_release(comms[1]);
}

/* Pending until the others have called; then complete, by every way to learn of it. */
static void a_request_is_pending(void) {
    rf_comm *comms[2];
    WELL(rf_comm_local(2, comms, &error));
    int32_t data[2] = {3, 4};
    rf_request *request = NULL;
    rf_options options = RF_OPTIONS_INIT;
    options.request = &request;
    WELL(rf_all_reduce(comms[0], &data[0], &data[0], 1, RF_I32, RF_SUM, &options, &error));
    HOLDS(rf_request_test(request, &error) == RF_PENDING && error.kind == RF_KIND_NONE);
    HOLDS(rf_request_wait(request, 20000000, &error) == RF_PENDING);
    int first = -1, second = -1;
    WELL(rf_request_descriptor(request, &first, &error));
    WELL(rf_request_descriptor(request, &second, &error));
    HOLDS(first >= 0 && first == second);
    static struct told told = {PTHREAD_MUTEX_INITIALIZER, 0, 0, 0, ""};
    WELL(rf_request_on_complete(request, complete, &told, gone, &error));
    static struct told other = {PTHREAD_MUTEX_INITIALIZER, 0, 0, 0, ""};
    REFUSED(rf_request_on_complete(request, complete, &other, gone, &error), RF_INVALID_ARGUMENT, "already");
    REFUSED(rf_request_on_complete(request, NULL, &other, gone, &error), RF_INVALID_ARGUMENT, "NULL");
    HOLDS(other.times == 0 && other.destroyed == 2);
    WELL(rf_all_reduce(comms[1], &data[1], &data[1], 1, RF_I32, RF_SUM, NULL, &error));
    WELL(rf_request_wait(request, -1, &error));
    HOLDS(data[0] == 7 && data[1] == 7);
    for (int i = 0; i < 4000 && !is_over(&told); i++)
        pause_ms(5);
    HOLDS(told.times == 1 && told.destroyed == 1 && told.status == RF_OK);
    rf_request_release(request);

    /* A prepared one: started, pending, waited for; a second run while one is under way is refused. */
    rf_prepared *prepared = NULL;
    options.request = NULL;
    options.prepared = &prepared;
    WELL(rf_all_reduce(comms[0], &data[0], &data[0], 1, RF_I32, RF_SUM, &options, &error));
    WELL(rf_prepared_wait(prepared, -1, &error));
    WELL(rf_prepared_start(prepared, &error));
    REFUSED(rf_prepared_start(prepared, &error), RF_INVALID_ARGUMENT, "under way");
    REFUSED(rf_prepared_run(prepared, &error), RF_INVALID_ARGUMENT, "under way");
    HOLDS(rf_prepared_wait(prepared, 20000000, &error) == RF_PENDING);
    WELL(rf_all_reduce(comms[1], &data[1], &data[1], 1, RF_I32, RF_SUM, NULL, &error));
    WELL(rf_prepared_wait(prepared, -1, &error));
    HOLDS(data[0] == 14 && data[1] == 14);
    /* The group is left when the last of its prepared operations is released. */
    rf_comm_release(comms[0]);
    WELL(rf_prepared_start(prepared, &error));
    WELL(rf_all_reduce(comms[1], &data[1], &data[1], 1, RF_I32, RF_SUM, NULL, &error));
    WELL(rf_prepared_wait(prepared, -1, &error));
    rf_prepared_release(prepared);
    REFUSED(rf_barrier(comms[1], NULL, &error), RF_CLOSED, "rank 0");
    rf_comm_release(comms[1]);
}

int main(void) {
    concurrent_use_and_abort();
    a_deadline_passes();
    a_reduction_fails();
    a_request_is_pending();
    puts("threads are told");
    return 0;
}
