/* What raw.c and memory.c do alike: ranks made by fork and bound to CPUs where there are enough, samples taken as `ringfold
 * perf --fresh` takes them, and the line of JSON. A program brings its operations, and says of each what is rewritten
 * before a sample and how a result is found to be wrong. */
#ifndef RINGFOLD_PEERS_LIMITS_H
#define RINGFOLD_PEERS_LIMITS_H

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_RANKS = 64, WARM_UPS = 3, FEWEST = 7, MOST = 4000, SMALL = 4096, BACK_TO_BACK = 200 };

/* What the ranks share. */
static struct {
    _Atomic int arrived, turn, next;
    _Atomic long wrong;
    double times[MAX_RANKS][MOST];
} *shared;

static int ranks, rank, crowded;
/* The size of the message; every rank's memory: what it rewrites and sends or copies, and what that arrives in. */
static size_t bytes;
static unsigned char *out, *in;

struct limit {
    const char *name, *how;
    void (*operation)(void);
    /* How much of `out` every rank rewrites before a sample. */
    size_t rewritten;
    int back_to_back;
    /* One operation off the clock: how many bytes came out wrong. */
    long (*check)(void);
    /* Bus bandwidth over the bandwidth of the algorithm; 0 where no bytes are moved. */
    double factor;
};

static void fail(const char *what) {
    fprintf(stderr, "limits: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void *share(size_t size) {
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) fail("mmap");
    return at;
}

static void barrier(void) {
    int turn = atomic_load(&shared->turn);
    if (atomic_fetch_add(&shared->arrived, 1) + 1 == ranks) {
        atomic_store(&shared->arrived, 0);
        atomic_store(&shared->turn, turn + 1);
        return;
    }
    for (long spins = 0; atomic_load(&shared->turn) == turn; spins++)
        if (crowded || spins > 10000) sched_yield();
}

static void copy(void) {
    memcpy(in, out, bytes);
    __asm__ volatile("" ::"r"(in) : "memory");
}

static void fill(size_t length, unsigned char salt) {
    for (size_t i = 0; i < length; i++) out[i] = (unsigned char)(i * 7 + salt);
}

static long differ(size_t length, unsigned char salt) {
    long wrong = 0;
    for (size_t i = 0; i < length; i++) wrong += in[i] != (unsigned char)(i * 7 + salt);
    return wrong;
}

static long check_copy(void) {
    fill(bytes, (unsigned char)rank);
    copy();
    return differ(bytes, (unsigned char)rank);
}

static struct limit memory_copy(void) {
    return (struct limit){"memcpy", "memcpy", copy, bytes, bytes < (size_t)SMALL ? BACK_TO_BACK : 1, check_copy, 1};
}

static double sample(const struct limit *limit) {
    memset(out, rank, limit->rewritten);
    barrier();
    barrier();
    double begin = now_us();
    for (int i = 0; i < limit->back_to_back; i++) limit->operation();
    return (now_us() - begin) / limit->back_to_back;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(struct limit limit, double seconds) {
    int taken = 0;
    double warm = 1e30, end;
    for (int i = 0; i < WARM_UPS; i++) {
        double time = sample(&limit);
        if (time < warm) warm = time;
    }
    end = now_us() + seconds * 1e6;
    for (;;) {
        if (rank == 0) {
            int next = (int)(50000.0 / (warm * limit.back_to_back + 1e-3));
            next = next < FEWEST ? FEWEST : next > 500 ? 500 : next;
            if (next > MOST - taken) next = MOST - taken;
            atomic_store(&shared->next, taken >= FEWEST && now_us() >= end ? 0 : next);
        }
        barrier();
        int next = atomic_load(&shared->next);
        barrier();
        if (next == 0) break;
        while (next-- > 0) shared->times[rank][taken++] = sample(&limit);
    }
    barrier();
    atomic_fetch_add(&shared->wrong, limit.check());
    barrier();
    if (rank == 0) {
        double *slowest = shared->times[0];
        for (int r = 1; r < ranks; r++)
            for (int i = 0; i < taken; i++)
                if (shared->times[r][i] > slowest[i]) slowest[i] = shared->times[r][i];
        qsort(slowest, (size_t)taken, sizeof *slowest, ascending);
        double time = taken % 2 ? slowest[taken / 2] : (slowest[taken / 2 - 1] + slowest[taken / 2]) / 2;
        double algorithm = limit.factor > 0 ? (double)bytes / time / 1e3 : 0;
        printf("{\"collective\":\"%s\",\"backend\":\"raw\",\"algorithm\":\"%s\",\"ranks\":%d,\"dtype\":\"u8\",\"op\":\"none\","
               "\"size_bytes\":%zu,\"count\":%zu,\"in_place\":false,\"time_us\":%.3f,\"algbw_gb_s\":%.6f,"
               "\"busbw_gb_s\":%.6f,\"wrong\":%ld}\n",
               limit.name, limit.how, ranks, bytes, bytes, time, algorithm, algorithm * limit.factor,
               atomic_load(&shared->wrong));
        fflush(stdout);
        atomic_store(&shared->wrong, 0);
    }
    barrier();
}

/* Makes the ranks, with `length` bytes each in `out` and `in`. The parent is the last rank; rank 0 prints. */
static void become_ranks(size_t length) {
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    crowded = ranks > cpus;
    shared = share(sizeof *shared);
    for (rank = 0; rank < ranks - 1; rank++) {
        pid_t child = fork();
        if (child < 0) fail("fork");
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            break;
        }
    }
    if (!crowded) {
        cpu_set_t own;
        CPU_ZERO(&own);
        CPU_SET(rank % (int)cpus, &own);
        sched_setaffinity(0, sizeof own, &own);
    }
    out = calloc(length + 1, 1);
    in = calloc(length + 1, 1);
    if (!out || !in) fail("memory");
    memset(in, 1, length);
}

/* The exit status: of the last rank, that of all. */
static int leave(void) {
    if (rank != ranks - 1) return 0;
    int status = 0, bad = 0;
    while (wait(&status) > 0) bad |= status;
    return bad != 0;
}

#endif
