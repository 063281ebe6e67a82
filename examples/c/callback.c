/* A bootstrap of one's own: all that ringfold asks of a runtime is one all-gather of small byte strings. Here the ranks are
 * processes that this program forks, and the all-gather goes by pipes through the first of them.
 *
 *     ./callback 4
 */
#define _POSIX_C_SOURCE 200809L
#include <ringfold.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 64, LONGEST = 65536 };

struct runtime {
    int rank, size;
    int up[MOST][2], down[MOST][2]; /* from and to each rank, at rank 0 */
    int destroyed;
};

static int whole(ssize_t (*move)(int, void *, size_t), int fd, void *bytes, size_t length) {
    for (size_t done = 0; done < length;) {
        ssize_t moved = move(fd, (char *)bytes + done, length - done);
        if (moved <= 0)
            return -1;
        done += (size_t)moved;
    }
    return 0;
}

static ssize_t put(int fd, void *bytes, size_t length) { return write(fd, bytes, length); }

static int say(int fd, const void *bytes, uint64_t length) {
    return whole(put, fd, &length, sizeof length) || whole(put, fd, (void *)bytes, length);
}

static int hear(int fd, void *bytes, uint64_t *length) {
    return whole(read, fd, length, sizeof *length) || *length > LONGEST || whole(read, fd, bytes, *length);
}

static int32_t all_gather(void *context, const void *message, uint64_t length, int64_t timeout_ns, rf_sink_fn take,
                          void *sink) {
    struct runtime *runtime = (struct runtime *)context;
    static char messages[MOST][LONGEST];
    static uint64_t lengths[MOST];
    (void)timeout_ns;
    if (runtime->rank == 0) {
        memcpy(messages[0], message, length);
        lengths[0] = length;
        for (int rank = 1; rank < runtime->size; rank++)
            if (hear(runtime->up[rank][0], messages[rank], &lengths[rank]))
                return 1;
        for (int to = 1; to < runtime->size; to++)
            for (int rank = 0; rank < runtime->size; rank++)
                if (say(runtime->down[to][1], messages[rank], lengths[rank]))
                    return 2;
    } else {
        if (say(runtime->up[runtime->rank][1], message, length))
            return 3;
        for (int rank = 0; rank < runtime->size; rank++)
            if (hear(runtime->down[runtime->rank][0], messages[rank], &lengths[rank]))
                return 4;
    }
    for (int rank = 0; rank < runtime->size; rank++)
        if (take(sink, rank, messages[rank], lengths[rank]) != RF_OK)
            return 5;
    return 0;
}

static void destroy(void *context) { ((struct runtime *)context)->destroyed++; }

static int work(struct runtime *runtime) {
    rf_exchange exchange = RF_EXCHANGE_INIT;
    exchange.rank = runtime->rank;
    exchange.world_size = runtime->size;
    exchange.all_gather = all_gather;
    exchange.context = runtime;
    exchange.destroy = destroy;
    rf_error error = RF_ERROR_INIT;
    rf_config config = RF_CONFIG_INIT;
    config.flags = RF_CONFIG_BARE; /* whatever launched this process is not to be asked */
    rf_comm *comm = NULL;
    if (rf_comm_create_by(&exchange, &config, &comm, &error) != RF_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    int64_t sum = runtime->rank;
    rf_status status = rf_all_reduce(comm, &sum, &sum, 1, RF_I64, RF_SUM, NULL, &error);
    if (status != RF_OK)
        fprintf(stderr, "%s\n", error.text);
    rf_comm_release(comm);
    int n = runtime->size;
    return status == RF_OK && sum == n * (n - 1) / 2 && runtime->destroyed == 1 ? 0 : 1;
}

int main(int argc, char **argv) {
    static struct runtime runtime;
    runtime.size = argc > 1 ? atoi(argv[1]) : 2;
    if (runtime.size < 1 || runtime.size > MOST)
        return 2;
    for (int rank = 1; rank < runtime.size; rank++)
        if (pipe(runtime.up[rank]) || pipe(runtime.down[rank]))
            return 2;
    for (int rank = 1; rank < runtime.size; rank++)
        if (fork() == 0) {
            runtime.rank = rank;
            return work(&runtime);
        }
    int failed = work(&runtime), status = 0;
    for (int rank = 1; rank < runtime.size; rank++)
        if (wait(&status) < 0 || status != 0)
            failed = 1;
    if (!failed)
        printf("%d ranks have agreed\n", runtime.size);
    return failed;
}
