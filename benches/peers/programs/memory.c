/* The limits that shared memory is held against:
 *
 *   flag_exchange  every rank writes a number into a cache line of its own and waits until it has seen that number in
 *                  everyone else's: what no operation among processes can do without, whatever its size
 *   memcpy         every rank copies the bytes once, all at the same time: an all_reduce has every rank read and write
 *                  as many
 *
 * argv: RANKS BYTES SECONDS. */
#define _GNU_SOURCE
#include "limits.h"

/* Far enough apart that no prefetcher fetches two at once. */
static struct flag {
    _Alignas(128) _Atomic unsigned value;
} *flags;
static unsigned sequence;

static void exchange(void) {
    unsigned mine = ++sequence;
    atomic_store_explicit(&flags[rank].value, mine, memory_order_release);
    for (int other = 0; other < ranks; other++)
        while ((int)(atomic_load_explicit(&flags[other].value, memory_order_acquire) - mine) < 0)
            if (crowded) sched_yield();
}

/* Who has seen everyone's number is one ahead of the others at most. */
static long check_exchange(void) {
    exchange();
    long wrong = 0;
    for (int other = 0; other < ranks; other++) wrong += atomic_load(&flags[other].value) - sequence > 1;
    return wrong;
}

int main(int argc, char **argv) {
    ranks = argc == 4 ? atoi(argv[1]) : 0;
    if (ranks < 2 || ranks > MAX_RANKS) {
        fprintf(stderr, "usage: %s RANKS BYTES SECONDS\n", argv[0]);
        return 2;
    }
    bytes = (size_t)strtoull(argv[2], NULL, 10);
    double seconds = atof(argv[3]);
    flags = share(sizeof *flags * MAX_RANKS);
    become_ranks(bytes);
    measure((struct limit){"flag_exchange", "flags", exchange, 0, BACK_TO_BACK, check_exchange, 0}, seconds);
    if (bytes > 0) measure(memory_copy(), seconds);
    return leave();
}
