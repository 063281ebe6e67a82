/* The limits that the rows are held against: what bare sockets and memcpy do of the same bytes, taken by the same method
 * as `ringfold perf` takes its samples.
 *
 *   raw_exchange  every rank sends what a rank of an all_reduce of that size has to send, 2(n-1)/n of it, to the next
 *                 rank, and receives as much from the one before, at the same time: one thread a rank, bare sockets that
 *                 do not block, spinning to 64 KiB and polling above
 *   memcpy        every rank copies the bytes once, all at the same time
 *
 * argv: RANKS BYTES SECONDS CONGESTION..., what TCP_CONGESTION takes: one row of raw_exchange each. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_RANKS = 64, MAX_WAYS = 8, WARM_UPS = 3, FEWEST = 7, MOST = 4000, SMALL = 4096, BACK_TO_BACK = 200 };
static const size_t SPIN_TO = 64 << 10, WINDOW = 512 << 10;

/* What the ranks share. */
static struct {
    _Atomic int arrived, turn, next;
    _Atomic long wrong;
    double times[MAX_RANKS][MOST];
} *shared;

static int ranks, rank, crowded, to_next, from_last;
static size_t bytes, moved;
static unsigned char *out, *in;

static void fail(const char *what) {
    fprintf(stderr, "raw: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
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

static void exchange(void) {
    size_t sent = 0, received = 0;
    while (sent < moved || received < moved) {
        ssize_t gone = 0, came = 0;
        if (sent < moved) {
            size_t most = moved - sent < WINDOW ? moved - sent : WINDOW;
            gone = send(to_next, out + sent, most, MSG_NOSIGNAL);
            if (gone < 0 && errno != EAGAIN) fail("send");
            if (gone > 0) sent += (size_t)gone;
        }
        if (received < moved) {
            size_t most = moved - received < WINDOW ? moved - received : WINDOW;
            came = recv(from_last, in + received, most, 0);
            if (came == 0 || (came < 0 && errno != EAGAIN)) fail("recv");
            if (came > 0) received += (size_t)came;
        }
        if (gone > 0 || came > 0) continue;
        if (moved > SPIN_TO) {
            struct pollfd both[2] = {{to_next, sent < moved ? POLLOUT : 0, 0}, {from_last, received < moved ? POLLIN : 0, 0}};
            poll(both, 2, 1000);
        } else if (crowded) {
            sched_yield();
        }
    }
}

static void copy(void) {
    memcpy(in, out, bytes);
    __asm__ volatile("" ::"r"(in) : "memory");
}

static void fill(unsigned char salt) {
    for (size_t i = 0; i < moved; i++) out[i] = (unsigned char)(i * 7 + salt);
}

static double sample(void (*operation)(void), int operations) {
    memset(out, rank, moved);
    barrier();
    barrier();
    double begin = now_us();
    for (int i = 0; i < operations; i++) operation();
    return (now_us() - begin) / operations;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(const char *name, const char *how, void (*operation)(void), double seconds, double factor) {
    int operations = bytes < (size_t)SMALL ? BACK_TO_BACK : 1, taken = 0;
    double warm = 1e30, end;
    for (int i = 0; i < WARM_UPS; i++) {
        double time = sample(operation, operations);
        if (time < warm) warm = time;
    }
    end = now_us() + seconds * 1e6;
    for (;;) {
        if (rank == 0) {
            int next = (int)(50000.0 / (warm * operations + 1e-3));
            next = next < FEWEST ? FEWEST : next > 500 ? 500 : next;
            if (next > MOST - taken) next = MOST - taken;
            atomic_store(&shared->next, taken >= FEWEST && now_us() >= end ? 0 : next);
        }
        barrier();
        int next = atomic_load(&shared->next);
        barrier();
        if (next == 0) break;
        while (next-- > 0) shared->times[rank][taken++] = sample(operation, operations);
    }
    /* Off the clock: did every byte of the rank before arrive? */
    fill((unsigned char)rank);
    barrier();
    operation();
    unsigned char salt = (unsigned char)(operation == copy ? rank : (rank + ranks - 1) % ranks);
    size_t length = operation == copy ? bytes : moved;
    for (size_t i = 0; i < length && i < moved; i++)
        if (in[i] != (unsigned char)(i * 7 + salt)) atomic_fetch_add(&shared->wrong, 1);
    barrier();
    if (rank == 0) {
        double *slowest = shared->times[0];
        for (int r = 1; r < ranks; r++)
            for (int i = 0; i < taken; i++)
                if (shared->times[r][i] > slowest[i]) slowest[i] = shared->times[r][i];
        qsort(slowest, (size_t)taken, sizeof *slowest, ascending);
        double time = taken % 2 ? slowest[taken / 2] : (slowest[taken / 2 - 1] + slowest[taken / 2]) / 2;
        double algorithm = (double)bytes / time / 1e3;
        printf("{\"collective\":\"%s\",\"backend\":\"raw\",\"algorithm\":\"%s\",\"ranks\":%d,\"dtype\":\"u8\",\"op\":\"none\","
               "\"size_bytes\":%zu,\"count\":%zu,\"in_place\":false,\"time_us\":%.3f,\"algbw_gb_s\":%.6f,"
               "\"busbw_gb_s\":%.6f,\"wrong\":%ld}\n",
               name, how, ranks, bytes, bytes, time, algorithm, algorithm * factor, atomic_load(&shared->wrong));
        fflush(stdout);
        atomic_store(&shared->wrong, 0);
    }
    barrier();
}

/* A connection over loopback: one end to send, one to receive. */
static void connect_pair(const char *congestion, int *sends, int *receives) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof at;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1) ||
        getsockname(listener, (struct sockaddr *)&at, &length))
        fail("listening on loopback");
    *sends = socket(AF_INET, SOCK_STREAM, 0);
    if (setsockopt(*sends, IPPROTO_TCP, TCP_CONGESTION, congestion, (socklen_t)strlen(congestion)))
        fail(congestion);
    if (connect(*sends, (struct sockaddr *)&at, sizeof at)) fail("connecting over loopback");
    *receives = accept(listener, NULL, NULL);
    if (*receives < 0) fail("accept");
    close(listener);
    int both[2] = {*sends, *receives};
    for (int i = 0; i < 2; i++) {
        setsockopt(both[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        fcntl(both[i], F_SETFL, O_NONBLOCK);
    }
}

int main(int argc, char **argv) {
    int ways = argc - 4;
    ranks = ways >= 0 && ways <= MAX_WAYS ? atoi(argv[1]) : 0;
    if (ranks < 2 || ranks > MAX_RANKS) {
        fprintf(stderr, "usage: %s RANKS BYTES SECONDS CONGESTION...\n", argv[0]);
        return 2;
    }
    bytes = (size_t)strtoull(argv[2], NULL, 10);
    moved = bytes * 2 * (size_t)(ranks - 1) / (size_t)ranks;
    double seconds = atof(argv[3]), factor = 2.0 * (ranks - 1) / ranks;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    crowded = ranks > cpus;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) fail("mmap");
    int sends[MAX_WAYS][MAX_RANKS], receives[MAX_WAYS][MAX_RANKS];
    for (int way = 0; way < ways; way++)
        for (int i = 0; i < ranks; i++)
            connect_pair(argv[4 + way], &sends[way][i], &receives[way][(i + 1) % ranks]);
    for (rank = 0; rank < ranks - 1; rank++) {
        pid_t child = fork();
        if (child < 0) fail("fork");
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            break;
        }
    }
    /* The parent is the last rank; rank 0 prints. */
    if (!crowded) {
        cpu_set_t own;
        CPU_ZERO(&own);
        CPU_SET(rank % (int)cpus, &own);
        sched_setaffinity(0, sizeof own, &own);
    }
    out = calloc(moved + 1, 1);
    in = calloc(moved + 1, 1);
    if (!out || !in) fail("memory");
    memset(in, 1, moved);
    for (int way = 0; way < ways; way++) {
        to_next = sends[way][rank];
        from_last = receives[way][rank];
        measure("raw_exchange", argv[4 + way], exchange, seconds, factor);
    }
    measure("memcpy", "memcpy", copy, seconds, 1);
    if (rank != ranks - 1) return 0;
    int status = 0, bad = 0;
    while (wait(&status) > 0) bad |= status;
    return bad != 0;
}
