/* A stand-in for the CUDA driver, which writes down what it is asked for. Memory of devices is memory of the host; a stream is a
 * queue whose tasks run, in order, when somebody asks how far it is. */
#include "fake.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_CONTEXT = 201, NOT_READY = 600 };
enum { DEVICES = 16, STREAMS = 256 };

typedef int CUresult;

struct task {
    int (*try)(void *);
    void *what;
    struct task *next;
};

struct event {
    int over, recorded;
};

struct block {
    char *address;
    size_t bytes;
    int device; /* -1: pinned memory of the host */
    struct block *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int contexts[DEVICES];
static struct stream *streams[STREAMS];
static int made;
static struct block *blocks;
static __thread int stack[32];
static __thread int depth;

/* What tests set. */
static long device_count = 4, hold, quiet, fail_init, fail_alloc;

static char text[1 << 20];
static size_t written;

static void put(const char *line) {
    size_t len = strlen(line);
    if (quiet || written + len + 2 > sizeof text) return;
    memcpy(text + written, line, len);
    text[written + len] = '\n';
    written += len + 1;
}

static void say(const char *format, ...) {
    if (quiet) return;
    char line[256];
    va_list list;
    va_start(list, format);
    vsnprintf(line, sizeof line, format, list);
    va_end(list);
    pthread_mutex_lock(&lock);
    put(line);
    pthread_mutex_unlock(&lock);
}

/* For others that write into this log: not while a task runs. */
static void log_line(const char *line) {
    pthread_mutex_lock(&lock);
    put(line);
    pthread_mutex_unlock(&lock);
}

int fake_set(const char *key, long value) {
    struct { const char *key; long *place; } all[] = {
        {"devices", &device_count}, {"hold", &hold}, {"quiet", &quiet}, {"fail_init", &fail_init}, {"fail_alloc", &fail_alloc},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!strcmp(all[i].key, key)) { *all[i].place = value; return 1; }
    return 0;
}

/* Takes the log: what has been written since the last time. */
size_t fake_log(char *into, size_t room) {
    pthread_mutex_lock(&lock);
    size_t len = written < room ? written : room;
    memcpy(into, text, len);
    written = 0;
    pthread_mutex_unlock(&lock);
    return len;
}

/* How many blocks of memory, streams and retained contexts there are. */
long fake_left(void) {
    long left = 0;
    pthread_mutex_lock(&lock);
    for (struct block *b = blocks; b; b = b->next) left++;
    for (int i = 0; i < STREAMS; i++) left += streams[i] != NULL;
    for (int i = 0; i < DEVICES; i++) left += contexts[i];
    pthread_mutex_unlock(&lock);
    return left;
}

/* Runs what can run. Under the lock. */
static void pump(void) {
    if (hold) return;
    for (int moved = 1; moved;) {
        moved = 0;
        for (int i = 0; i < STREAMS; i++) {
            struct stream *s = streams[i];
            while (s && s->first && s->first->try(s->first->what)) {
                struct task *done = s->first;
                s->first = done->next;
                if (!s->first) s->last = NULL;
                free(done);
                moved = 1;
            }
        }
    }
}

static int append_late(struct stream *s, int (*try)(void *), void *what) {
    struct task *task = calloc(1, sizeof *task);
    task->try = try;
    task->what = what;
    pthread_mutex_lock(&lock);
    if (s->last) s->last->next = task; else s->first = task;
    s->last = task;
    pthread_mutex_unlock(&lock);
    return OK;
}

static int append(struct stream *s, int (*try)(void *), void *what) {
    if (!depth || (s && stack[depth - 1] != s->device)) return INVALID_CONTEXT;
    if (!s) {
        /* On the default stream work is over before its call returns. */
        pthread_mutex_lock(&lock);
        int done = try(what);
        pthread_mutex_unlock(&lock);
        return done ? OK : NOT_READY;
    }
    return append_late(s, try, what);
}

CUresult cuInit(unsigned flags) { return flags || fail_init ? NO_DEVICE : OK; }
CUresult cuDriverGetVersion(int *version) { *version = 12040; return OK; }

CUresult cuGetErrorName(CUresult code, const char **name) {
    *name = code == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : code == INVALID_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT"
          : code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : code == INVALID_VALUE ? "CUDA_ERROR_INVALID_VALUE" : NULL;
    return *name ? OK : INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult code, const char **string) {
    *string = code == NO_DEVICE ? "no CUDA-capable device is detected" : code == OUT_OF_MEMORY ? "out of memory" : NULL;
    return *string ? OK : INVALID_VALUE;
}

CUresult cuDeviceGetCount(int *count) { *count = (int)device_count; return OK; }

CUresult cuDeviceGet(int *device, int ordinal) {
    if (ordinal < 0 || ordinal >= device_count) return INVALID_DEVICE;
    *device = ordinal;
    return OK;
}

CUresult cuDeviceGetName(char *name, int room, int device) {
    snprintf(name, (size_t)room, "Invented GPU %d", device);
    return OK;
}

CUresult cuDeviceGetPCIBusId(char *pci, int room, int device) {
    snprintf(pci, (size_t)room, "0000:%02X:00.0", device + 1);
    return OK;
}

CUresult cuDeviceGetUuid(unsigned char *uuid, int device) {
    memset(uuid, device + 1, 16);
    return OK;
}

CUresult cuDevicePrimaryCtxRetain(void **context, int device) {
    pthread_mutex_lock(&lock);
    contexts[device]++;
    pthread_mutex_unlock(&lock);
    *context = &contexts[device];
    return OK;
}

CUresult cuDevicePrimaryCtxRelease_v2(int device) {
    pthread_mutex_lock(&lock);
    contexts[device]--;
    pthread_mutex_unlock(&lock);
    return OK;
}

CUresult cuCtxPushCurrent_v2(void *context) {
    long device = (int *)context - contexts;
    if (device < 0 || device >= DEVICES || depth >= 32) return INVALID_CONTEXT;
    stack[depth++] = (int)device;
    return OK;
}

CUresult cuCtxPopCurrent_v2(void **context) {
    if (!depth) return INVALID_CONTEXT;
    *context = &contexts[stack[--depth]];
    return OK;
}

CUresult cuStreamCreate(void **stream, unsigned flags) {
    if (!depth) return INVALID_CONTEXT;
    struct stream *s = calloc(1, sizeof *s);
    s->device = stack[depth - 1];
    s->append = append;
    s->append_late = append_late;
    s->log = log_line;
    pthread_mutex_lock(&lock);
    int free_place = 0;
    while (free_place < STREAMS && streams[free_place]) free_place++;
    if (free_place < STREAMS) streams[free_place] = s;
    s->id = ++made;
    pthread_mutex_unlock(&lock);
    if (free_place == STREAMS) { free(s); return OUT_OF_MEMORY; }
    *stream = s;
    say("cuStreamCreate(s%d, d%d, flags %u)", s->id, s->device, flags);
    return OK;
}

CUresult cuStreamDestroy_v2(void *stream) {
    struct stream *s = stream;
    pthread_mutex_lock(&lock);
    pump();
    for (int i = 0; i < STREAMS; i++) if (streams[i] == s) streams[i] = NULL;
    pthread_mutex_unlock(&lock);
    say("cuStreamDestroy(s%d)%s", s->id, s->first ? " with work left" : "");
    free(s);
    return OK;
}

CUresult cuStreamQuery(void *stream) {
    struct stream *s = stream;
    pthread_mutex_lock(&lock);
    pump();
    int done = !s || !s->first;
    pthread_mutex_unlock(&lock);
    return done ? OK : NOT_READY;
}

CUresult cuStreamSynchronize(void *stream) {
    while (cuStreamQuery(stream) != OK) usleep(50);
    return OK;
}

CUresult cuEventCreate(void **event, unsigned flags) {
    struct event *e = calloc(1, sizeof *e);
    e->over = 1;
    *event = e;
    say("cuEventCreate(flags %u)", flags);
    return OK;
}

CUresult cuEventDestroy_v2(void *event) {
    /* Tasks may still know it: some bytes are left behind in tests. */
    (void)event;
    return OK;
}

static int set_event(void *event) {
    struct event *e = event;
    if (--e->recorded == 0) e->over = 1;
    return 1;
}

static int await_event(void *event) { return ((struct event *)event)->over; }

CUresult cuEventRecord(void *event, void *stream) {
    struct event *e = event;
    struct stream *s = stream;
    pthread_mutex_lock(&lock);
    e->recorded++;
    e->over = 0;
    pthread_mutex_unlock(&lock);
    say("cuEventRecord(s%d)", s ? s->id : 0);
    return append(s, set_event, e);
}

CUresult cuEventQuery(void *event) {
    struct event *e = event;
    pthread_mutex_lock(&lock);
    pump();
    int over = e->over;
    pthread_mutex_unlock(&lock);
    return over ? OK : NOT_READY;
}

CUresult cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    struct stream *s = stream;
    say("cuStreamWaitEvent(s%d, flags %u)", s ? s->id : 0, flags);
    return append(s, await_event, event);
}

static CUresult take(void **address, size_t bytes, int device) {
    struct block *b = calloc(1, sizeof *b);
    b->address = aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset(b->address, 0xcd, bytes);
    b->bytes = bytes;
    b->device = device;
    pthread_mutex_lock(&lock);
    b->next = blocks;
    blocks = b;
    pthread_mutex_unlock(&lock);
    *address = b->address;
    return OK;
}

static CUresult give(void *address) {
    pthread_mutex_lock(&lock);
    struct block **at = &blocks;
    while (*at && (*at)->address != address) at = &(*at)->next;
    struct block *b = *at;
    if (b) *at = b->next;
    pthread_mutex_unlock(&lock);
    if (!b) return INVALID_VALUE;
    free(b->address);
    free(b);
    return OK;
}

/* Of whom so many bytes are: a device, -1 for pinned memory, -2 for neither. */
static int of_whom(const void *address, size_t bytes) {
    int device = -2;
    pthread_mutex_lock(&lock);
    for (struct block *b = blocks; b; b = b->next)
        if ((char *)address >= b->address && (char *)address + bytes <= b->address + b->bytes) device = b->device;
    pthread_mutex_unlock(&lock);
    return device;
}

CUresult cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    if (!depth) return INVALID_CONTEXT;
    if (fail_alloc) return OUT_OF_MEMORY;
    void *taken;
    take(&taken, bytes, stack[depth - 1]);
    *address = (uintptr_t)taken;
    say("cuMemAlloc(d%d, %zu)", stack[depth - 1], bytes);
    return OK;
}

CUresult cuMemFree_v2(uint64_t address) { return give((void *)(uintptr_t)address); }

CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
    if (!depth) return INVALID_CONTEXT;
    say("cuMemHostAlloc(%zu, flags %u)", bytes, flags);
    return take(address, bytes, -1);
}

CUresult cuMemFreeHost(void *address) { return give(address); }

struct copy {
    void *to;
    const void *from;
    size_t bytes;
};

static int copy(void *what) {
    struct copy *c = what;
    memmove(c->to, c->from, c->bytes);
    free(c);
    return 1;
}

static CUresult queue_copy(const char *name, void *to, const void *from, size_t bytes, struct stream *s, int to_whom, int from_whom) {
    int target = of_whom(to, bytes), source = of_whom(from, bytes);
    int own = s ? s->device : depth ? stack[depth - 1] : -2;
    int fits = target == (to_whom < 0 ? -1 : own) && source == (from_whom < 0 ? -1 : own);
    say("%s(s%d, %zu)%s", name, s ? s->id : 0, bytes, fits ? "" : " of memory that is not what it should be");
    struct copy *c = malloc(sizeof *c);
    *c = (struct copy){to, from, bytes};
    return append(s, copy, c);
}

CUresult cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    return queue_copy("cuMemcpyHtoDAsync", (void *)(uintptr_t)to, from, bytes, stream, 0, -1);
}

CUresult cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    return queue_copy("cuMemcpyDtoHAsync", to, (void *)(uintptr_t)from, bytes, stream, -1, 0);
}

CUresult cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    return queue_copy("cuMemcpyDtoDAsync", (void *)(uintptr_t)to, (void *)(uintptr_t)from, bytes, stream, 0, 0);
}

CUresult cuPointerGetAttribute(void *into, int attribute, uint64_t address) {
    int device = of_whom((void *)(uintptr_t)address, 1);
    if (attribute != 9 || device < 0) return INVALID_VALUE;
    *(int *)into = device;
    return OK;
}
