/* A stand-in for NCCL, which writes down what it is asked for and does it, among ranks that are threads of one process. Ranks of one
 * unique id meet in memory. Built with VERSION, and without some functions (NO_SPLIT, NO_ALL_TO_ALL, OLD) as older versions are. */
#include "fake.h"
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION 23203
#endif

enum { SUCCESS, CUDA_ERROR, SYSTEM_ERROR, INTERNAL_ERROR, INVALID_ARGUMENT, INVALID_USAGE, REMOTE_ERROR, IN_PROGRESS };
enum { RANKS = 16, PARTS = 64 };

typedef struct { char bytes[128]; } Id;
typedef struct { size_t size; unsigned magic, version; int blocking; int rest[5]; } Config;

enum kind { ALL_REDUCE, REDUCE, BROADCAST, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, SEND, RECV };
static const char *const NAMES[] = {"ncclAllReduce", "ncclReduce", "ncclBroadcast", "ncclAllGather", "ncclReduceScatter",
                                    "ncclAlltoAll", "ncclSend", "ncclRecv"};

struct part {
    enum kind kind;
    const char *from;
    char *to;
    size_t count;
    int dtype, op, root;
    struct comm *comm;
    struct meeting *meeting;
    int met, over;
};

/* Where the parts of one collective, or the two of one message, meet. */
struct meeting {
    long number;
    int from, to; /* of a message; else -1 */
    struct part *parts[RANKS];
    int came, over, dead, noticed;
    struct meeting *next;
};

struct group {
    Id id;
    int ranks, joined;
    struct meeting *meetings;
    /* Divisions: what each rank has said in the present one, and its new communicator. */
    long divisions[RANKS];
    struct { int color, key, said; struct comm *child; } split[RANKS];
    int said;
    struct group *next;
};

struct comm {
    struct group *group;
    int rank;
    long collectives, sent[RANKS], received[RANKS], calls;
    int aborted, finalized, dividing;
    long polls;
    struct task *late;
};

struct task {
    int parts;
    struct part part[PARTS];
    struct stream *stream;
    struct comm *comm;
    struct task *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct group *groups __attribute__((unused));
static char text[1 << 20];
static size_t written;
static char last_error[256];
static __thread int depth;
static __thread struct task *gathered;

/* What tests set. A rank of -1 is none. */
static long init_hang, hang, async_rank = -1, async_after, async_code = REMOTE_ERROR, fail_rank = -1, fail_call, fail_code = SYSTEM_ERROR,
            fail_join = -1, abort_ms, launch_polls, quiet;

int fake_set(const char *key, long value) {
    struct { const char *key; long *place; } all[] = {
        {"init_hang", &init_hang}, {"hang", &hang}, {"async_rank", &async_rank}, {"async_after", &async_after},
        {"async_code", &async_code}, {"fail_rank", &fail_rank}, {"fail_call", &fail_call}, {"fail_code", &fail_code},
        {"fail_join", &fail_join}, {"abort_ms", &abort_ms}, {"launch_polls", &launch_polls}, {"quiet", &quiet},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!strcmp(all[i].key, key)) { *all[i].place = value; return 1; }
    return 0;
}

static void say(const char *format, ...) {
    if (quiet) return;
    char line[256];
    va_list list;
    va_start(list, format);
    int len = vsnprintf(line, sizeof line, format, list);
    va_end(list);
    pthread_mutex_lock(&lock);
    if (written + (size_t)len + 1 < sizeof text) {
        memcpy(text + written, line, (size_t)len);
        text[written + (size_t)len] = '\n';
        written += (size_t)len + 1;
    }
    pthread_mutex_unlock(&lock);
}

size_t fake_log(char *into, size_t room) {
    pthread_mutex_lock(&lock);
    size_t len = written < room ? written : room;
    memcpy(into, text, len);
    written = 0;
    pthread_mutex_unlock(&lock);
    return len;
}

static size_t width(int dtype) {
    static const size_t widths[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return dtype >= 0 && dtype < 12 ? widths[dtype] : 0;
}

#define COMBINE(TYPE) \
    for (size_t i = 0; i < count; i++) { \
        TYPE a = ((TYPE *)into)[i], b = ((const TYPE *)other)[i]; \
        ((TYPE *)into)[i] = op == 1 ? (TYPE)(a * b) : op == 2 ? (a > b ? a : b) : op == 3 ? (a < b ? a : b) : (TYPE)(a + b); \
    } break;
#define DIVIDE(TYPE) for (size_t i = 0; i < count; i++) ((TYPE *)into)[i] /= (TYPE)ranks; break;

/* Halves are combined as numbers of 32 bits and rounded each time, as it is enough for tests with small whole numbers. */
static float widen(uint16_t half, int brain) {
    uint32_t bits;
    if (brain) bits = (uint32_t)half << 16;
    else if (!(half & 0x7fff)) bits = (uint32_t)(half & 0x8000) << 16;
    else bits = (uint32_t)(half & 0x8000) << 16 | (((uint32_t)(half & 0x7fff) << 13) + 0x38000000u);
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static uint16_t narrow(float value, int brain) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (brain) return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    if (!(bits & 0x7fffffff)) return (uint16_t)(bits >> 16);
    uint32_t rest = (bits & 0x7fffffff) - 0x38000000u;
    return (uint16_t)((bits >> 16 & 0x8000) | ((rest + 0xfff + (rest >> 13 & 1)) >> 13));
}

static void combine(char *into, const char *other, size_t count, int dtype, int op) {
    switch (dtype) {
    case 0: COMBINE(int8_t)
    case 1: COMBINE(uint8_t)
    case 2: COMBINE(int32_t)
    case 3: COMBINE(uint32_t)
    case 4: COMBINE(int64_t)
    case 5: COMBINE(uint64_t)
    case 7: COMBINE(float)
    case 8: COMBINE(double)
    default:
        for (size_t i = 0; i < count; i++) {
            float a = widen(((uint16_t *)into)[i], dtype == 9), b = widen(((const uint16_t *)other)[i], dtype == 9);
            float c = op == 1 ? a * b : op == 2 ? (a > b ? a : b) : op == 3 ? (a < b ? a : b) : a + b;
            ((uint16_t *)into)[i] = narrow(c, dtype == 9);
        }
    }
}

static void divide(char *into, size_t count, int dtype, int ranks) {
    switch (dtype) {
    case 7: DIVIDE(float)
    case 8: DIVIDE(double)
    default:
        for (size_t i = 0; i < count; i++)
            ((uint16_t *)into)[i] = narrow(widen(((uint16_t *)into)[i], dtype == 9) / (float)ranks, dtype == 9);
    }
}

/* The reduction of so many elements of all ranks, from an element on. */
static char *reduced(struct meeting *m, int ranks, size_t start, size_t count) {
    struct part *first = m->parts[0];
    size_t size = width(first->dtype);
    char *result = malloc(count * size + 1);
    memcpy(result, first->from + start * size, count * size);
    for (int rank = 1; rank < ranks; rank++) combine(result, m->parts[rank]->from + start * size, count, first->dtype, first->op);
    if (first->op == 4) divide(result, count, first->dtype, ranks);
    return result;
}

static void carry_out(struct meeting *m, int ranks) {
    if (m->from >= 0) {
        struct part *send = m->parts[0], *receive = m->parts[1];
        memmove(receive->to, send->from, send->count * width(send->dtype));
        return;
    }
    struct part *one = m->parts[0];
    size_t bytes = one->count * width(one->dtype);
    switch (one->kind) {
    case ALL_REDUCE: {
        char *result = reduced(m, ranks, 0, one->count);
        for (int rank = 0; rank < ranks; rank++) memcpy(m->parts[rank]->to, result, bytes);
        free(result);
        break;
    }
    case REDUCE: {
        char *result = reduced(m, ranks, 0, one->count);
        memcpy(m->parts[one->root]->to, result, bytes);
        free(result);
        break;
    }
    case BROADCAST:
        for (int rank = 0; rank < ranks; rank++) memmove(m->parts[rank]->to, m->parts[one->root]->from, bytes);
        break;
    case ALL_GATHER:
        for (int to = 0; to < ranks; to++)
            for (int from = 0; from < ranks; from++) memmove(m->parts[to]->to + (size_t)from * bytes, m->parts[from]->from, bytes);
        break;
    case REDUCE_SCATTER: {
        char *results[RANKS];
        for (int rank = 0; rank < ranks; rank++) results[rank] = reduced(m, ranks, (size_t)rank * one->count, one->count);
        for (int rank = 0; rank < ranks; rank++) {
            memcpy(m->parts[rank]->to, results[rank], bytes);
            free(results[rank]);
        }
        break;
    }
    default:
        for (int to = 0; to < ranks; to++)
            for (int from = 0; from < ranks; from++)
                memmove(m->parts[to]->to + (size_t)from * bytes, m->parts[from]->from + (size_t)to * bytes, bytes);
    }
}

/* Brings a part to where it meets the others. Whether it is done. Under the lock. */
static int meet(struct part *p) {
    struct comm *comm = p->comm;
    struct group *g = comm->group;
    if (p->over) return 1;
    if (comm->aborted) {
        if (p->meeting && !p->meeting->over) p->meeting->dead = 1;
        return 1;
    }
    if (!p->met) {
        int message = p->kind == SEND || p->kind == RECV;
        int from = p->kind == SEND ? comm->rank : p->root, to = p->kind == SEND ? p->root : comm->rank;
        long number = !message ? comm->collectives++ : p->kind == SEND ? comm->sent[to]++ : comm->received[from]++;
        if (!message) from = to = -1;
        struct meeting *m = g->meetings;
        while (m && !(m->number == number && m->from == from && m->to == to)) m = m->next;
        if (!m) {
            m = calloc(1, sizeof *m);
            *m = (struct meeting){.number = number, .from = from, .to = to, .next = g->meetings};
            g->meetings = m;
        }
        m->parts[message ? p->kind == RECV : comm->rank] = p;
        m->came++;
        p->meeting = m;
        p->met = 1;
        struct part *other = NULL;
        for (int i = 0; i < RANKS && !other; i++) if (m->parts[i] && m->parts[i] != p) other = m->parts[i];
        if (other && ((!message && other->kind != p->kind) || other->count != p->count || other->dtype != p->dtype))
            m->dead = 1; /* NCCL does not compare either: such ranks wait for ever. */
        if (m->came == (message ? 2 : g->ranks) && !m->dead) {
            carry_out(m, g->ranks);
            m->over = 1;
        }
    }
    struct meeting *m = p->meeting;
    if (m->over) {
        p->over = 1;
        if (++m->noticed == m->came) {
            struct meeting **at = &g->meetings;
            while (*at != m) at = &(*at)->next;
            *at = m->next;
            free(m);
        }
    }
    return p->over;
}

static int try(void *what) {
    struct task *task = what;
    pthread_mutex_lock(&lock);
    int done = task->comm->aborted || !hang;
    for (int i = 0; done && i < task->parts; i++) {
        /* All parts of a group are under way at once. */
        for (int j = i; j < task->parts; j++) meet(&task->part[j]);
        done = meet(&task->part[i]);
    }
    /* What others may still look at stays. */
    if (done && !task->comm->aborted) free(task);
    pthread_mutex_unlock(&lock);
    return done;
}

static int launch(struct task *task) {
    struct comm *comm = task->comm;
    if (launch_polls) {
        comm->polls = launch_polls;
        comm->late = task;
        return IN_PROGRESS;
    }
    return task->stream->append(task->stream, try, task) ? CUDA_ERROR : SUCCESS;
}

static int call(enum kind kind, const void *from, void *to, size_t count, int dtype, int op, int root, struct comm *comm, void *stream) {
    struct stream *s = stream;
    if (!quiet) {
        char line[160];
        snprintf(line, sizeof line, "%s(r%d, n%zu, t%d, o%d, p%d, s%d)%s", NAMES[kind], comm->rank, count, dtype, op, root, s ? s->id : 0,
                 from == to ? " in place" : "");
        say("%s", line);
        if (s) s->log(line);
    }
    if (comm->polls) { snprintf(last_error, sizeof last_error, "a call while another goes on"); return INVALID_USAGE; }
    if (!s || !width(dtype) || op < 0 || op > 4) { snprintf(last_error, sizeof last_error, "stream %p", stream); return INVALID_ARGUMENT; }
    if (++comm->calls == fail_call && comm->rank == fail_rank) {
        snprintf(last_error, sizeof last_error, "the seeded fault of rank %d", comm->rank);
        return (int)fail_code;
    }
    struct part p = {.kind = kind, .from = from, .to = to, .count = count, .dtype = dtype, .op = op, .root = root, .comm = comm};
    if (depth) {
        if (!gathered) { gathered = calloc(1, sizeof *gathered); gathered->comm = comm; gathered->stream = s; }
        if (gathered->comm != comm || gathered->stream != s || gathered->parts == PARTS) return INVALID_USAGE;
        gathered->part[gathered->parts++] = p;
        return SUCCESS;
    }
    struct task *task = calloc(1, sizeof *task);
    *task = (struct task){.parts = 1, .stream = s, .comm = comm};
    task->part[0] = p;
    return launch(task);
}

int ncclGetVersion(int *version) { *version = VERSION; return SUCCESS; }

const char *ncclGetErrorString(int code) {
    static const char *const words[] = {"no error", "unhandled cuda error", "unhandled system error", "internal error",
                                        "invalid argument", "invalid usage", "remote process exited or there was a network error",
                                        "NCCL operation in progress"};
    return code >= 0 && code < 8 ? words[code] : "unknown result code";
}

const char *ncclGetLastError(struct comm *comm) { (void)comm; return last_error; }

int ncclGetUniqueId(Id *id) {
    static long made;
    memset(id, 0, sizeof *id);
    pthread_mutex_lock(&lock);
    snprintf(id->bytes, sizeof id->bytes, "group %ld", ++made);
    pthread_mutex_unlock(&lock);
    say("ncclGetUniqueId()");
    return SUCCESS;
}

#ifndef OLD
static struct comm *join(const Id *id, int ranks, int rank) {
    struct comm *comm = calloc(1, sizeof *comm);
    pthread_mutex_lock(&lock);
    struct group *g = groups;
    while (g && memcmp(&g->id, id, sizeof *id)) g = g->next;
    if (!g) {
        g = calloc(1, sizeof *g);
        g->id = *id;
        g->ranks = ranks;
        g->next = groups;
        groups = g;
    }
    g->joined++;
    comm->group = g;
    comm->rank = rank;
    pthread_mutex_unlock(&lock);
    return comm;
}

static __attribute__((unused)) int fits(const Config *config) {
    return config && config->magic == 0xcafebeef && config->size >= 24 && config->version >= 21400 && config->blocking == 0
        && config->rest[0] == INT_MIN;
}

int ncclCommInitRankConfig(struct comm **comm, int ranks, Id id, int rank, Config *config) {
    say("ncclCommInitRankConfig(r%d of %d, size %zu, version %u, blocking %d)", rank, ranks, config->size, config->version, config->blocking);
    *comm = NULL;
    if (!fits(config)) return INVALID_ARGUMENT;
    if (fail_join == rank) { snprintf(last_error, sizeof last_error, "no way to the others"); return SYSTEM_ERROR; }
    *comm = join(&id, ranks, rank);
    return IN_PROGRESS;
}

int ncclCommFinalize(struct comm *comm) {
    say("ncclCommFinalize(r%d)", comm->rank);
    comm->finalized = 1;
    return IN_PROGRESS;
}
#endif

int ncclCommDestroy(struct comm *comm) { say("ncclCommDestroy(r%d)", comm->rank); return SUCCESS; }

int ncclCommAbort(struct comm *comm) {
    say("ncclCommAbort(r%d)", comm->rank);
    if (abort_ms) usleep((useconds_t)abort_ms * 1000);
    pthread_mutex_lock(&lock);
    comm->aborted = 1;
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

int ncclCommGetAsyncError(struct comm *comm, int *code) {
    *code = SUCCESS;
    if (comm->rank == async_rank && comm->calls >= async_after) {
        snprintf(last_error, sizeof last_error, "the seeded asynchronous fault");
        *code = (int)async_code;
        return SUCCESS;
    }
    pthread_mutex_lock(&lock);
    int joining = comm->group->joined < comm->group->ranks || init_hang;
    int dividing = comm->dividing;
    pthread_mutex_unlock(&lock);
    if (joining || dividing) *code = IN_PROGRESS;
    else if (comm->polls && --comm->polls == 0) {
        struct task *task = comm->late;
        comm->late = NULL;
        *code = task->stream->append_late(task->stream, try, task) ? CUDA_ERROR : SUCCESS;
    } else if (comm->polls) *code = IN_PROGRESS;
    return SUCCESS;
}

#ifndef NO_SPLIT
int ncclCommSplit(struct comm *comm, int color, int key, struct comm **child, Config *config) {
    struct group *g = comm->group;
    say("ncclCommSplit(r%d, color %d, key %d)", comm->rank, color, key);
    *child = NULL;
    if (!fits(config)) return INVALID_ARGUMENT;
    pthread_mutex_lock(&lock);
    if (color >= 0) { *child = calloc(1, sizeof **child); (*child)->dividing = 1; (*child)->group = g; }
    comm->dividing = 1;
    g->split[comm->rank].color = color;
    g->split[comm->rank].key = key;
    g->split[comm->rank].child = *child;
    g->split[comm->rank].said = 1;
    static struct comm *parents[RANKS * 64];
    static int waiting;
    parents[waiting++] = comm;
    if (++g->said == g->ranks) {
        for (int i = 0; i < g->ranks; i++) {
            struct comm *one = g->split[i].child;
            if (!one) continue;
            struct group *new = NULL;
            for (int j = 0; j < i && !new; j++)
                if (g->split[j].child && g->split[j].color == g->split[i].color) new = g->split[j].child->group;
            if (!new) {
                new = calloc(1, sizeof *new);
                snprintf(new->id.bytes, sizeof new->id.bytes, "part %p", (void *)new);
                new->next = groups;
                groups = new;
            }
            one->group = new;
            one->rank = g->split[i].key;
            new->ranks++;
            new->joined++;
        }
        for (int i = 0; i < g->ranks; i++) if (g->split[i].child) g->split[i].child->dividing = 0;
        g->said = 0;
        int kept = 0;
        for (int i = 0; i < waiting; i++) {
            if (parents[i]->group == g) parents[i]->dividing = 0; else parents[kept++] = parents[i];
        }
        waiting = kept;
    }
    pthread_mutex_unlock(&lock);
    return IN_PROGRESS;
}
#endif

int ncclGroupStart(void) { depth++; say("ncclGroupStart()"); return SUCCESS; }

int ncclGroupEnd(void) {
    say("ncclGroupEnd()");
    if (!depth) return INVALID_USAGE;
    if (--depth || !gathered) return SUCCESS;
    struct task *task = gathered;
    gathered = NULL;
    return launch(task);
}

int ncclAllReduce(const void *from, void *to, size_t count, int dtype, int op, struct comm *comm, void *stream) {
    return call(ALL_REDUCE, from, to, count, dtype, op, 0, comm, stream);
}

int ncclReduce(const void *from, void *to, size_t count, int dtype, int op, int root, struct comm *comm, void *stream) {
    return call(REDUCE, from, to, count, dtype, op, root, comm, stream);
}

int ncclBroadcast(const void *from, void *to, size_t count, int dtype, int root, struct comm *comm, void *stream) {
    return call(BROADCAST, from, to, count, dtype, 0, root, comm, stream);
}

int ncclAllGather(const void *from, void *to, size_t count, int dtype, struct comm *comm, void *stream) {
    return call(ALL_GATHER, from, to, count, dtype, 0, 0, comm, stream);
}

int ncclReduceScatter(const void *from, void *to, size_t count, int dtype, int op, struct comm *comm, void *stream) {
    return call(REDUCE_SCATTER, from, to, count, dtype, op, 0, comm, stream);
}

#ifndef NO_ALL_TO_ALL
int ncclAlltoAll(const void *from, void *to, size_t count, int dtype, struct comm *comm, void *stream) {
    return call(ALL_TO_ALL, from, to, count, dtype, 0, 0, comm, stream);
}
#endif

int ncclSend(const void *from, size_t count, int dtype, int peer, struct comm *comm, void *stream) {
    return call(SEND, from, NULL, count, dtype, 0, peer, comm, stream);
}

int ncclRecv(void *to, size_t count, int dtype, int peer, struct comm *comm, void *stream) {
    return call(RECV, NULL, to, count, dtype, 0, peer, comm, stream);
}
