/* What every peer's program does alike: operands, samples, checks and the line of JSON, by the definition of
 * `ringfold perf`. A program brings the four functions of `struct library` and calls `bench_main`.
 *
 * The value at an index depends on rank, index and sample and is exact in any order of combination. A sample with
 * fresh operands: the input is rewritten, two barriers, one operation; below 4 KiB two barriers and 200 operations back
 * to back, or fewer where these would take more than 0.1 s. The time is the median over samples of the maximum over
 * ranks. Results are checked off the clock, by an operation before and one after. */
#ifndef RINGFOLD_PEERS_BENCH_H
#define RINGFOLD_PEERS_BENCH_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum collective { ALL_REDUCE, REDUCE, BROADCAST, REDUCE_SCATTER, ALL_GATHER, ALL_TO_ALL, BARRIER, COLLECTIVE_COUNT };
static const char *const COLLECTIVES[] = {"all_reduce", "reduce",     "broadcast", "reduce_scatter",
                                          "all_gather", "all_to_all", "barrier"};

struct library {
    int rank, ranks;
    /* One operation of `count` floats; in place where both are the same. The root is rank 0. Where every rank has a
     * block, `count` is that of all blocks together, and places are MPI's: in place, an all_gather finds the rank's own
     * block where it belongs, and a reduce_scatter leaves its result at the start. */
    void (*run)(enum collective what, const float *input, float *output, size_t count);
    void (*barrier)(void);
    /* Rank 0's number on every rank, off the clock. */
    int (*agree)(int number);
    /* The largest (or the sum) of all ranks' numbers, element by element, off the clock. */
    void (*largest)(double *numbers, int count);
    void (*sum)(double *numbers, int count);
    /* Whether blocks are moved out of place only. */
    int blocks_out_of_place_only;
};

struct bench {
    struct library lib;
    enum collective what;
    const char *transport;
    /* The whole message, and every rank's block of it. */
    size_t count, block;
    double seconds;
    int fresh, period;
    float *input, *output;
};

enum { WARM_UPS = 3, FEWEST = 7, MOST = 4000, SMALL = 4096, BACK_TO_BACK = 200, LONGEST_US = 100000 };

static int moves_blocks(enum collective what) {
    return what == REDUCE_SCATTER || what == ALL_GATHER || what == ALL_TO_ALL;
}

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static float operand(const struct bench *b, int rank, size_t index, int sample) {
    return (float)((index + 3 * (size_t)rank + (size_t)sample) % (size_t)b->period);
}

static size_t own_block(const struct bench *b) { return (size_t)b->lib.rank * b->block; }

static void fill(struct bench *b, int in_place, int sample) {
    int gathers = b->what == ALL_GATHER;
    float *into = in_place ? b->output + (gathers ? own_block(b) : 0) : b->input;
    size_t length = gathers ? b->block : b->count, first = gathers ? own_block(b) : 0;
    float pattern[8];
    for (int i = 0; i < b->period; i++) pattern[i] = operand(b, b->lib.rank, first + (size_t)i, sample);
    size_t at = 0;
    for (; at + (size_t)b->period <= length; at += (size_t)b->period)
        memcpy(into + at, pattern, sizeof(float) * (size_t)b->period);
    memcpy(into + at, pattern, sizeof(float) * (length - at));
}

static void operate(struct bench *b, int in_place) {
    b->lib.run(b->what, in_place ? b->output : b->input, b->output, b->count);
}

/* How many of `length` floats of the output differ from what these ranks together have from index `first` on. */
static double wrong_in(const struct bench *b, size_t at, size_t length, int rank, int ranks, size_t first, int sample) {
    float expected[8];
    for (int i = 0; i < b->period; i++) {
        expected[i] = 0;
        for (int r = rank; r < rank + ranks; r++) expected[i] += operand(b, r, first + (size_t)i, sample);
    }
    double wrong = 0;
    for (size_t i = 0, phase = 0; i < length; i++) {
        wrong += b->output[at + i] != expected[phase];
        if (++phase == (size_t)b->period) phase = 0;
    }
    return wrong;
}

static double wrong(const struct bench *b, int sample) {
    double wrong = 0;
    switch (b->what) {
    case REDUCE:
        if (b->lib.rank != 0) return 0; /* fall through */
    case ALL_REDUCE: return wrong_in(b, 0, b->count, 0, b->lib.ranks, 0, sample);
    case BROADCAST: return wrong_in(b, 0, b->count, 0, 1, 0, sample);
    case REDUCE_SCATTER: return wrong_in(b, 0, b->block, 0, b->lib.ranks, own_block(b), sample);
    case ALL_GATHER:
        for (int r = 0; r < b->lib.ranks; r++)
            wrong += wrong_in(b, (size_t)r * b->block, b->block, r, 1, (size_t)r * b->block, sample);
        return wrong;
    case ALL_TO_ALL:
        for (int r = 0; r < b->lib.ranks; r++)
            wrong += wrong_in(b, (size_t)r * b->block, b->block, r, 1, own_block(b), sample);
        return wrong;
    default: return 0;
    }
}

static double check(struct bench *b, int in_place, int sample) {
    for (size_t i = 0; i < b->count; i++) b->output[i] = 101;
    fill(b, in_place, sample);
    operate(b, in_place);
    double all = wrong(b, sample);
    b->lib.sum(&all, 1);
    return all;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double one_sample(struct bench *b, int in_place, int sample, int operations) {
    if (b->fresh) {
        fill(b, in_place, sample);
        b->lib.barrier();
        b->lib.barrier();
    }
    double begin = now_us();
    for (int i = 0; i < operations; i++) operate(b, in_place);
    return (now_us() - begin) / operations;
}

static void measure(struct bench *b, int in_place) {
    static double times[MOST];
    size_t bytes = b->count * sizeof(float);
    int operations = b->fresh && bytes < SMALL ? BACK_TO_BACK : 1, taken = 0, sample = 2;
    double wrong_ones = check(b, in_place, 1), warm = 1e30;
    if (operations > 1) {
        for (int i = 0; i < WARM_UPS; i++) {
            double time = one_sample(b, in_place, ++sample, 1);
            if (time < warm) warm = time;
        }
        if (warm * operations > LONGEST_US) operations = (int)(LONGEST_US / warm) + 1;
        operations = b->lib.agree(operations);
    }
    for (int i = 0; i < WARM_UPS; i++) {
        double time = one_sample(b, in_place, ++sample, operations);
        if (time < warm) warm = time;
    }
    double end = now_us() + b->seconds * 1e6;
    for (;;) {
        /* Rank 0 says how many samples come next; 0 ends it. */
        int next = (int)(50000.0 / (warm * operations));
        next = next < FEWEST ? FEWEST : next > 500 ? 500 : next;
        if (next > MOST - taken) next = MOST - taken;
        if (taken >= FEWEST && now_us() >= end) next = 0;
        next = b->lib.agree(next);
        if (next == 0) break;
        while (next-- > 0) times[taken++] = one_sample(b, in_place, ++sample, operations);
    }
    b->lib.largest(times, taken);
    wrong_ones += check(b, in_place, 2);
    if (b->lib.rank != 0) return;
    qsort(times, (size_t)taken, sizeof *times, ascending);
    double time = taken % 2 ? times[taken / 2] : (times[taken / 2 - 1] + times[taken / 2]) / 2;
    double algorithm = (double)bytes / time / 1e3, n = b->lib.ranks;
    double bus = algorithm * (b->what == ALL_REDUCE ? 2 * (n - 1) / n : moves_blocks(b->what) ? (n - 1) / n : 1);
    int reduces = b->what == ALL_REDUCE || b->what == REDUCE || b->what == REDUCE_SCATTER;
    printf("{\"collective\":\"%s\",\"backend\":\"%s\",\"algorithm\":\"own\",\"ranks\":%d,\"dtype\":\"f32\",\"op\":\"%s\","
           "\"size_bytes\":%zu,\"count\":%zu,\"in_place\":%s,\"time_us\":%.3f,\"algbw_gb_s\":%.6f,\"busbw_gb_s\":%.6f,"
           "\"operations\":%d,\"wrong\":%.0f}\n",
           COLLECTIVES[b->what], b->transport, b->lib.ranks, reduces ? "sum" : "none", bytes, b->count,
           in_place ? "true" : "false", time, algorithm, bus, operations, wrong_ones);
    fflush(stdout);
}

/* argv: COLLECTIVE BYTES SECONDS TRANSPORT FRESH. */
static int bench_main(struct library library, int argc, char **argv) {
    struct bench b;
    memset(&b, 0, sizeof b);
    b.lib = library;
    int known = 0;
    for (int i = 0; argc == 6 && i < COLLECTIVE_COUNT; i++)
        if (strcmp(argv[1], COLLECTIVES[i]) == 0) b.what = (enum collective)i, known = 1;
    if (!known) {
        if (library.rank == 0) fprintf(stderr, "usage: %s COLLECTIVE BYTES SECONDS TRANSPORT FRESH\n", argv[0]);
        return 2;
    }
    b.count = (size_t)strtoull(argv[2], NULL, 10) / sizeof(float);
    b.block = b.count / (size_t)library.ranks;
    if (moves_blocks(b.what) && b.block * (size_t)library.ranks != b.count) {
        if (library.rank == 0) fprintf(stderr, "%zu floats cannot be cut into %d blocks\n", b.count, library.ranks);
        return 2;
    }
    b.seconds = atof(argv[3]);
    b.transport = argv[4];
    b.fresh = atoi(argv[5]);
    b.period = 256 / library.ranks > 7 ? 7 : 256 / library.ranks < 2 ? 2 : 256 / library.ranks;
    b.input = (float *)calloc(b.count + 1, sizeof(float));
    b.output = (float *)calloc(b.count + 1, sizeof(float));
    if (!b.input || !b.output) return 3;
    /* A broadcast has one buffer, a barrier none. */
    int in_place_too = b.what != BARRIER && !(moves_blocks(b.what) && library.blocks_out_of_place_only);
    for (int in_place = b.what == BROADCAST; in_place <= in_place_too; in_place++) measure(&b, in_place);
    free(b.input);
    free(b.output);
    return 0;
}

#endif
