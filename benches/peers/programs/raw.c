/* The limits that the rows over TCP are held against: what bare sockets and memcpy do of the same bytes.
 *
 *   raw_exchange  every rank sends what a rank of an all_reduce of that size has to send, 2(n-1)/n of it, to the next
 *                 rank, and receives as much from the one before, at the same time: one thread a rank, bare sockets that
 *                 do not block, spinning to 64 KiB and polling above
 *   memcpy        every rank copies the bytes once, all at the same time
 *
 * argv: RANKS BYTES SECONDS CONGESTION..., what TCP_CONGESTION takes: one row of raw_exchange each. */
#define _GNU_SOURCE
#include "limits.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

enum { MAX_WAYS = 8 };
static const size_t SPIN_TO = 64 << 10, WINDOW = 512 << 10;

static int to_next, from_last;
static size_t moved;

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

/* Did every byte of the rank before arrive? */
static long check_exchange(void) {
    fill(moved, (unsigned char)rank);
    exchange();
    return differ(moved, (unsigned char)((rank + ranks - 1) % ranks));
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
    /* A barrier has no bytes, but a rank has to hear of it. */
    moved = bytes > 0 ? bytes * 2 * (size_t)(ranks - 1) / (size_t)ranks : 1;
    double seconds = atof(argv[3]), factor = 2.0 * (ranks - 1) / ranks;
    int sends[MAX_WAYS][MAX_RANKS], receives[MAX_WAYS][MAX_RANKS];
    for (int way = 0; way < ways; way++)
        for (int i = 0; i < ranks; i++)
            connect_pair(argv[4 + way], &sends[way][i], &receives[way][(i + 1) % ranks]);
    become_ranks(moved);
    int back_to_back = bytes < (size_t)SMALL ? BACK_TO_BACK : 1;
    for (int way = 0; way < ways; way++) {
        to_next = sends[way][rank];
        from_last = receives[way][rank];
        measure((struct limit){"raw_exchange", argv[4 + way], exchange, moved, back_to_back, check_exchange, factor}, seconds);
    }
    if (bytes > 0) measure(memory_copy(), seconds);
    return leave();
}
