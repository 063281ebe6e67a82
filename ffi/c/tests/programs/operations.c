/* Every operation, called, started and prepared, in place and apart, against what it should give. Any number of ranks. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

enum { MOST = 8, BLOCK = 3 };
static rf_comm *comm;
static int n, r;

/* What rank `rank` has at place `i`: small integers, exact in any order. */
static double value(int rank, int i) { return (double)((rank * 7 + i * 3) % 11 - 4); }

static double sum(int i) {
    double all = 0;
    for (int rank = 0; rank < n; rank++)
        all += value(rank, i);
    return all;
}

/* How a call is made: now, started, or prepared and run twice. */
enum way { NOW, STARTED, PREPARED, WAYS };
static rf_options options;
static rf_request *request;
static rf_prepared *prepared;

static const rf_options *by(enum way way) {
    WELL(rf_options_init(&options, sizeof options));
    request = NULL;
    prepared = NULL;
    if (way == STARTED)
        options.request = &request;
    if (way == PREPARED)
        options.prepared = &prepared;
    return way == NOW ? NULL : &options;
}

static void finish(enum way way) {
    if (way == STARTED) {
        HOLDS(request != NULL);
        WELL(rf_request_wait(request, -1, &error));
        WELL(rf_request_test(request, &error));
        rf_request_release(request);
    }
    if (way == PREPARED) {
        HOLDS(prepared != NULL);
        WELL(rf_prepared_run(prepared, &error));
        rf_prepared_release(prepared);
    }
}

static double in[MOST * MOST * BLOCK], out[MOST * MOST * BLOCK];

static void fill(double *data, int rank, int count, int from) {
    for (int i = 0; i < count; i++)
        data[i] = value(rank, from + i);
}

static void clear(void) {
    memset(in, 0, sizeof in);
    memset(out, 0, sizeof out);
}

static void whole(enum way way, int in_place) {
    const int count = 5;
    double *from = in_place ? out : in;
    clear();
    fill(from, r, count, 0);
    WELL(rf_all_reduce(comm, from, out, count, RF_F64, RF_SUM, by(way), &error));
    finish(way);
    for (int i = 0; i < count; i++)
        HOLDS(out[i] == sum(i));

    for (int root = 0; root < n; root++) {
        clear();
        fill(from, r, count, 0);
        double *into = r == root ? out : NULL;
        WELL(rf_reduce(comm, from, in_place && r != root ? from : into, count, RF_F64, RF_SUM, root, by(way), &error));
        finish(way);
        for (int i = 0; i < count && r == root; i++)
            HOLDS(out[i] == sum(i));

        clear();
        if (r == root)
            fill(from, r, count, 0);
        WELL(rf_broadcast(comm, r == root ? from : NULL, out, count, RF_F64, root, by(way), &error));
        finish(way);
        for (int i = 0; i < count; i++)
            HOLDS(out[i] == value(root, i));
    }
}

/* Blocks of one length, and, where `counts` is there, of rank + 1 elements less one at rank 0. */
static void blocks(enum way way, int in_place, int variable) {
    uint64_t counts[MOST], at[MOST], total = 0;
    for (int rank = 0; rank < n; rank++) {
        counts[rank] = variable ? (uint64_t)rank : BLOCK;
        at[rank] = total;
        total += counts[rank];
    }
    const uint64_t mine = counts[r];

    clear();
    double *input = in_place ? out + at[r] : in;
    fill(input, r, (int)mine, 0);
    if (variable)
        WELL(rf_all_gather_v(comm, input, out, counts, RF_F64, by(way), &error));
    else
        WELL(rf_all_gather(comm, input, out, BLOCK, RF_F64, by(way), &error));
    finish(way);
    for (int rank = 0; rank < n; rank++)
        for (uint64_t i = 0; i < counts[rank]; i++)
            HOLDS(out[at[rank] + i] == value(rank, (int)i));

    clear();
    fill(in, r, (int)total, 0);
    double *output = in_place ? in + at[r] : out;
    if (variable)
        WELL(rf_reduce_scatter_v(comm, in, output, counts, RF_F64, RF_SUM, by(way), &error));
    else
        WELL(rf_reduce_scatter(comm, in, output, BLOCK, RF_F64, RF_SUM, by(way), &error));
    finish(way);
    for (uint64_t i = 0; i < mine; i++)
        HOLDS(output[i] == sum((int)(at[r] + i)));

    for (int root = 0; root < n; root++) {
        clear();
        input = in_place && r == root ? out + at[r] : in;
        fill(input, r, (int)mine, 0);
        double *all = r == root ? out : NULL;
        if (variable)
            WELL(rf_gather_v(comm, input, all, counts, RF_F64, root, by(way), &error));
        else
            WELL(rf_gather(comm, input, all, BLOCK, RF_F64, root, by(way), &error));
        finish(way);
        for (int rank = 0; rank < n && r == root; rank++)
            for (uint64_t i = 0; i < counts[rank]; i++)
                HOLDS(out[at[rank] + i] == value(rank, (int)i));

        clear();
        if (r == root)
            fill(in, r, (int)total, 0);
        output = in_place && r == root ? in + at[r] : out;
        if (variable)
            WELL(rf_scatter_v(comm, r == root ? in : NULL, output, counts, RF_F64, root, by(way), &error));
        else
            WELL(rf_scatter(comm, r == root ? in : NULL, output, BLOCK, RF_F64, root, by(way), &error));
        finish(way);
        for (uint64_t i = 0; i < mine; i++)
            HOLDS(output[i] == value(root, (int)(at[r] + i)));
    }
}

static void exchanges(enum way way) {
    clear();
    for (int rank = 0; rank < n; rank++)
        fill(in + rank * BLOCK, r, BLOCK, 10 * rank);
    memcpy(out, in, sizeof in);
    WELL(rf_all_to_all(comm, out, out, BLOCK, RF_F64, by(way), &error));
    finish(way);
    for (int rank = 0; rank < n; rank++)
        for (int i = 0; i < BLOCK; i++)
            HOLDS(out[rank * BLOCK + i] == value(rank, 10 * r + i));

    /* Rank a sends rank b a + b elements. */
    uint64_t send[MOST], receive[MOST];
    double *next = in;
    for (int rank = 0; rank < n; rank++) {
        send[rank] = receive[rank] = (uint64_t)(r + rank);
        fill(next, r, r + rank, 20 * rank);
        next += r + rank;
    }
    memset(out, 0, sizeof out);
    WELL(rf_all_to_all_v(comm, in, send, out, receive, RF_F64, by(way), &error));
    finish(way);
    next = out;
    for (int rank = 0; rank < n; rank++) {
        for (int i = 0; i < r + rank; i++)
            HOLDS(next[i] == value(rank, 20 * r + i));
        next += r + rank;
    }

    clear();
    fill(in, r, BLOCK, 0);
    const int to = (r + 1) % n, from = (r + n - 1) % n;
    WELL(rf_send_recv(comm, in, BLOCK, to, out, BLOCK, from, RF_F64, by(way), &error));
    finish(way);
    for (int i = 0; i < BLOCK; i++)
        HOLDS(out[i] == value(from, i));
    if (n > 1 && r < 2) {
        if (r == 0)
            WELL(rf_send(comm, in, BLOCK, RF_F64, 1, by(way), &error));
        else
            WELL(rf_recv(comm, out, BLOCK, RF_F64, 0, by(way), &error));
        finish(way);
        for (int i = 0; i < BLOCK && r == 1; i++)
            HOLDS(out[i] == value(0, i));
    }
    WELL(rf_barrier(comm, by(way), &error));
    finish(way);
}

static void types(void) {
#define TYPE(name, c, operation, wanted)                                                       \
    {                                                                                          \
        c data[2] = {(c)(r + 1), (c)(r + 2)};                                                  \
        WELL(rf_all_reduce(comm, data, data, 2, name, operation, NULL, &error));               \
        HOLDS(data[0] == (c)(wanted));                                                         \
    }
    TYPE(RF_I8, int8_t, RF_SUM, n * (n + 1) / 2)
    TYPE(RF_U8, uint8_t, RF_MAX, n)
    TYPE(RF_I16, int16_t, RF_MIN, 1)
    TYPE(RF_U16, uint16_t, RF_SUM, n * (n + 1) / 2)
    TYPE(RF_I32, int32_t, RF_MAX, n)
    TYPE(RF_U32, uint32_t, RF_SUM, n * (n + 1) / 2)
    TYPE(RF_I64, int64_t, RF_MIN, 1)
    TYPE(RF_U64, uint64_t, RF_SUM, n * (n + 1) / 2)
    TYPE(RF_F32, float, RF_MEAN, (float)(n + 1) / 2)
    TYPE(RF_F64, double, RF_SUM, n * (n + 1) / 2)
    /* 1.0 in 16 bits: as IEEE 754, and as the upper half of a float. */
    uint16_t half = 0x3c00, brain = 0x3f80, bits = (uint16_t)(1 << r);
    WELL(rf_all_reduce(comm, &half, &half, 1, RF_F16, RF_MAX, NULL, &error));
    WELL(rf_all_reduce(comm, &brain, &brain, 1, RF_BF16, RF_MIN, NULL, &error));
    WELL(rf_all_reduce(comm, &bits, &bits, 1, RF_U16, RF_BITOR, NULL, &error));
    HOLDS(half == 0x3c00 && brain == 0x3f80 && bits == (1 << n) - 1);
}

static void batch(enum way way) {
    float weights[100];
    double biases[7];
    int32_t steps[1] = {r};
    for (int i = 0; i < 100; i++)
        weights[i] = (float)value(r, i);
    fill(biases, r, 7, 0);
    rf_tensor list[4] = {{weights, 100, RF_F32, 0}, {biases, 7, RF_F64, 0}, {NULL, 0, RF_F64, 0}, {steps, 1, RF_I32, 0}};
    WELL(rf_all_reduce_batch(comm, list, 4, RF_SUM, by(way), &error));
    finish(way);
    for (int i = 0; i < 100; i++)
        HOLDS(weights[i] == (float)sum(i));
    for (int i = 0; i < 7; i++)
        HOLDS(biases[i] == sum(i));
    HOLDS(steps[0] == n * (n - 1) / 2);
    WELL(rf_all_reduce_batch(comm, NULL, 0, RF_SUM, NULL, &error));
}

static void with_options(void) {
    rf_options said = RF_OPTIONS_INIT;
    said.order = RF_ORDER_FIXED;
    said.check = RF_CHECK_STRICT;
    said.deadline_ns = 60000000000;
    said.algorithm = n % 3 == 0 ? NULL : "recursive_doubling"; /* which has the fixed order for powers of two */
    double data[3] = {1, 2, 3};
    WELL(rf_all_reduce(comm, data, data, 3, RF_F64, RF_SUM, &said, &error));
    HOLDS(data[2] == 3 * n);
    WELL(rf_barrier(comm, &said, &error));
}

static void groups(void) {
    rf_comm *half = NULL, *again = NULL, *first = NULL, *none = comm;
    WELL(rf_comm_split(comm, r % 2, -r, &half, &error));
    HOLDS(half != NULL && rf_comm_size(half) == (n + 1 - r % 2) / 2);
    HOLDS(rf_comm_world_rank(half, rf_comm_rank(half)) == r);
    int32_t one = 1;
    WELL(rf_all_reduce(half, &one, &one, 1, RF_I32, RF_SUM, NULL, &error));
    HOLDS(one == rf_comm_size(half));
    rf_comm_release(half);
    WELL(rf_comm_split(comm, r == 0 ? -1 : 0, 0, &none, &error));
    HOLDS((none == NULL) == (r == 0));
    rf_comm_release(none);
    WELL(rf_comm_duplicate(comm, &again, &error));
    HOLDS(rf_comm_rank(again) == r && rf_comm_size(again) == n);
    WELL(rf_barrier(again, NULL, &error));
    const uint64_t ranks[1] = {0};
    WELL(rf_comm_group(comm, ranks, 1, &first, &error));
    HOLDS((first != NULL) == (r == 0));
    rf_comm_release(first);
    rf_comm_release(again);
}

static int32_t minus(void *context, const void *left, const void *right, void *into, uint64_t count) {
    (void)context;
    for (uint64_t i = 0; i < count; i++) {
        int32_t a, b;
        memcpy(&a, (const char *)left + 4 * i, 4);
        memcpy(&b, (const char *)right + 4 * i, 4);
        a = a * 10 + b; /* not associative in general; with one digit a rank and two ranks it tells the order */
        memcpy((char *)into + 4 * i, &a, 4);
    }
    return 0;
}

static void count_down(void *context) { --*(int *)context; }

static void reductions(void) {
    int alive = 1;
    rf_reduction_config config = RF_REDUCTION_INIT;
    config.name = "ten and";
    config.dtype = RF_I32;
    config.combine = minus;
    config.context = &alive;
    config.destroy = count_down;
    rf_reduction *reduction = NULL;
    WELL(rf_reduction_create(&config, &reduction, &error));
    rf_options said = RF_OPTIONS_INIT;
    said.reduction = reduction;
    rf_comm *pair = NULL;
    WELL(rf_comm_split(comm, r / 2, r, &pair, &error));
    if (rf_comm_size(pair) == 2) {
        int32_t data[2] = {(int32_t)rf_comm_rank(pair) + 1, 5};
        WELL(rf_all_reduce(pair, data, data, 2, RF_I32, RF_CUSTOM, &said, &error));
        HOLDS(data[0] == 12 && data[1] == 55);
    }
    rf_comm_release(pair);
    rf_reduction_release(reduction);
    HOLDS(alive == 0);
}

static void numbers(void) {
    rf_counters counters = RF_COUNTERS_INIT;
    WELL(rf_comm_counters(comm, &counters, &error));
    HOLDS(counters.completed > 100 && counters.failed == 0 && counters.bytes > 0);
    HOLDS((counters.bytes_sent > 0) == (n > 1));
    HOLDS(strstr(rf_comm_table(comm), "all_reduce: ") != NULL);
    HOLDS(rf_comm_host(comm, r) == NULL || rf_comm_host(comm, r)[0] != 0);
    HOLDS(strlen(rf_comm_backend(comm)) > 0 && rf_comm_generation(comm) >= 0);
}

int main(void) {
    WELL(rf_comm_create(NULL, &comm, &error));
    n = (int)rf_comm_size(comm);
    r = (int)rf_comm_rank(comm);
    HOLDS(n <= MOST);
    for (int way = NOW; way < WAYS; way++) {
        for (int in_place = 0; in_place < 2; in_place++) {
            whole((enum way)way, in_place);
            blocks((enum way)way, in_place, 0);
            blocks((enum way)way, in_place, 1);
        }
        exchanges((enum way)way);
        if (way != PREPARED)
            batch((enum way)way);
    }
    types();
    with_options();
    groups();
    reductions();
    numbers();
    WELL(rf_comm_failure(comm, &error));
    rf_comm_release(comm);
    puts("every operation is right");
    return 0;
}
