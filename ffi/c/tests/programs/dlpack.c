/* Operations over tensors as DLPack describes them: dense and strided, apart and in place, and what is refused. Any number of ranks. */
#include "check.h"

/* What dlpack.h has, so that this needs no other project's header. */
typedef struct {
    uint32_t major, minor;
} DLPackVersion;
typedef struct {
    int32_t device_type, device_id;
} DLDevice;
typedef struct {
    uint8_t code, bits;
    uint16_t lanes;
} DLDataType;
typedef struct {
    void *data;
    DLDevice device;
    int32_t ndim;
    DLDataType dtype;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} DLTensor;
typedef struct DLManagedTensorVersioned {
    DLPackVersion version;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensorVersioned *self);
    uint64_t flags;
    DLTensor dl_tensor;
} DLManagedTensorVersioned;

static const DLDataType F32 = {2, 32, 1}, BF16 = {4, 16, 1}, I16 = {0, 16, 1};

/* Nothing is taken over. */
static void never(DLManagedTensorVersioned *self) {
    (void)self;
    fprintf(stderr, "a deleter was called\n");
    exit(1);
}

/* A tensor with room for its own extents and strides. */
typedef struct {
    DLManagedTensorVersioned managed;
    int64_t shape[2], strides[2];
} tensor;

/* `rows` by `columns`; a stride of 0 for the columns stands for a dense one. */
static DLManagedTensorVersioned *view(tensor *t, void *data, DLDataType dtype, int64_t rows, int64_t columns, int64_t row,
                                      int64_t column) {
    memset(t, 0, sizeof *t);
    t->shape[0] = rows, t->shape[1] = columns;
    t->strides[0] = row, t->strides[1] = column;
    t->managed.version.major = 1;
    t->managed.deleter = never;
    DLTensor *of = &t->managed.dl_tensor;
    of->data = data;
    of->device.device_type = 1;
    of->ndim = 2;
    of->dtype = dtype;
    of->shape = t->shape;
    of->strides = column == 0 ? NULL : t->strides;
    return &t->managed;
}

enum { MOST = 8, BLOCK = 6 };
static rf_comm *comm;
static int64_t n, r;

static float value(int64_t rank, int64_t i) { return (float)((rank * 7 + i * 3) % 11 - 4); }

static float sum(int64_t i) {
    float all = 0;
    for (int64_t rank = 0; rank < n; rank++)
        all += value(rank, i);
    return all;
}

/* Where element `i` of so many is: dense, every other one, or the columns of two rows. */
enum { DENSE, APART, TURNED, LAYOUTS };
static int64_t place(int layout, int64_t count, int64_t i) {
    int64_t half = count / 2;
    return layout == DENSE ? i : layout == APART ? 2 * i : i / half + i % half * 2;
}

static DLManagedTensorVersioned *laid(tensor *t, float *data, int layout, int64_t count) {
    if (layout == DENSE)
        return view(t, data, F32, 1, count, 0, 0);
    if (layout == APART)
        return view(t, data, F32, 2, count / 2, count, 2);
    return view(t, data, F32, 2, count / 2, 1, 2);
}

static float in[2 * MOST * BLOCK], out[2 * MOST * BLOCK];
static const float GAP = -77;

static void fill(float *data, int layout, int64_t count, int64_t rank, int64_t from) {
    for (int64_t i = 0; i < count; i++)
        data[place(layout, count, i)] = value(rank, from + i);
}

static void clear(void) {
    for (int i = 0; i < 2 * MOST * BLOCK; i++)
        in[i] = out[i] = GAP;
}

/* How many elements have changed: those between the others must not. */
static int64_t written(const float *data) {
    int64_t count = 0;
    for (int i = 0; i < 2 * MOST * BLOCK; i++)
        count += data[i] != GAP;
    return count;
}

static rf_options packing(void) {
    rf_options options = RF_OPTIONS_INIT;
    options.pack = 1;
    return options;
}

static void every_verb(int from, int to) {
    tensor a, b;
    const rf_options pack = packing();
    const rf_options *options = from == DENSE && to == DENSE ? NULL : &pack;
    const int64_t all = n * BLOCK;

    clear();
    fill(in, from, BLOCK, r, 0);
    WELL(rf_all_reduce_dlpack(comm, laid(&a, in, from, BLOCK), laid(&b, out, to, BLOCK), RF_SUM, options, &error));
    for (int64_t i = 0; i < BLOCK; i++)
        HOLDS(out[place(to, BLOCK, i)] == sum(i) && in[place(from, BLOCK, i)] == value(r, i));
    HOLDS(written(out) == BLOCK);

    clear();
    fill(in, from, all, r, 0);
    WELL(rf_reduce_scatter_dlpack(comm, laid(&a, in, from, all), laid(&b, out, to, BLOCK), RF_SUM, options, &error));
    for (int64_t i = 0; i < BLOCK; i++)
        HOLDS(out[place(to, BLOCK, i)] == sum(r * BLOCK + i));
    HOLDS(written(out) == BLOCK);

    clear();
    fill(in, from, BLOCK, r, 0);
    WELL(rf_all_gather_dlpack(comm, laid(&a, in, from, BLOCK), laid(&b, out, to, all), options, &error));
    for (int64_t i = 0; i < all; i++)
        HOLDS(out[place(to, all, i)] == value(i / BLOCK, i % BLOCK));
    HOLDS(written(out) == all);

    clear();
    fill(in, from, all, r, 0);
    WELL(rf_all_to_all_dlpack(comm, laid(&a, in, from, all), laid(&b, out, to, all), options, &error));
    for (int64_t i = 0; i < all; i++)
        HOLDS(out[place(to, all, i)] == value(i / BLOCK, r * BLOCK + i % BLOCK));
    HOLDS(written(out) == all);

    for (int64_t root = 0; root < n; root++) {
        const int is_root = r == root;
        clear();
        fill(in, from, BLOCK, r, 0);
        WELL(rf_reduce_dlpack(comm, laid(&a, in, from, BLOCK), is_root ? laid(&b, out, to, BLOCK) : NULL, RF_SUM, root, options,
                              &error));
        for (int64_t i = 0; is_root && i < BLOCK; i++)
            HOLDS(out[place(to, BLOCK, i)] == sum(i));
        HOLDS(written(out) == (is_root ? BLOCK : 0));

        clear();
        fill(in, from, BLOCK, r, 0);
        WELL(rf_broadcast_dlpack(comm, is_root ? laid(&a, in, from, BLOCK) : NULL, laid(&b, out, to, BLOCK), root, options, &error));
        for (int64_t i = 0; i < BLOCK; i++)
            HOLDS(out[place(to, BLOCK, i)] == value(root, i));
        HOLDS(written(out) == BLOCK);

        clear();
        fill(in, from, BLOCK, r, 0);
        WELL(rf_gather_dlpack(comm, laid(&a, in, from, BLOCK), is_root ? laid(&b, out, to, all) : NULL, root, options, &error));
        for (int64_t i = 0; is_root && i < all; i++)
            HOLDS(out[place(to, all, i)] == value(i / BLOCK, i % BLOCK));
        HOLDS(written(out) == (is_root ? all : 0));

        clear();
        fill(in, from, all, r, 0);
        WELL(rf_scatter_dlpack(comm, is_root ? laid(&a, in, from, all) : NULL, laid(&b, out, to, BLOCK), root, options, &error));
        for (int64_t i = 0; i < BLOCK; i++)
            HOLDS(out[place(to, BLOCK, i)] == value(root, r * BLOCK + i));
        HOLDS(written(out) == BLOCK);
    }

    clear();
    fill(in, from, BLOCK, r, 0);
    if (n > 1 && r == 0)
        WELL(rf_send_dlpack(comm, laid(&a, in, from, BLOCK), n - 1, options, &error));
    if (n > 1 && r == n - 1) {
        WELL(rf_recv_dlpack(comm, laid(&b, out, to, BLOCK), 0, options, &error));
        for (int64_t i = 0; i < BLOCK; i++)
            HOLDS(out[place(to, BLOCK, i)] == value(0, i));
        HOLDS(written(out) == BLOCK);
    }
}

static void in_place(int layout) {
    tensor a, b;
    const rf_options pack = packing();
    const rf_options *options = layout == DENSE ? NULL : &pack;
    const int64_t all = n * BLOCK;
    DLManagedTensorVersioned *one;

    for (int same_structure = 0; same_structure < 2; same_structure++) {
        clear();
        fill(out, layout, BLOCK, r, 0);
        one = laid(&a, out, layout, BLOCK);
        WELL(rf_all_reduce_dlpack(comm, one, same_structure ? one : laid(&b, out, layout, BLOCK), RF_SUM, options, &error));
        for (int64_t i = 0; i < BLOCK; i++)
            HOLDS(out[place(layout, BLOCK, i)] == sum(i));
        HOLDS(written(out) == BLOCK);
    }

    clear();
    one = laid(&a, out, layout, all);
    for (int64_t i = 0; i < BLOCK; i++)
        out[place(layout, all, r * BLOCK + i)] = value(r, i);
    WELL(rf_all_gather_dlpack(comm, one, one, options, &error));
    for (int64_t i = 0; i < all; i++)
        HOLDS(out[place(layout, all, i)] == value(i / BLOCK, i % BLOCK));
    HOLDS(written(out) == all);

    clear();
    fill(out, layout, all, r, 0);
    one = laid(&a, out, layout, all);
    WELL(rf_reduce_scatter_dlpack(comm, one, one, RF_SUM, options, &error));
    for (int64_t i = 0; i < all; i++)
        HOLDS(out[place(layout, all, i)] == (i / BLOCK == r ? sum(i) : value(r, i)));
    if (layout != DENSE)
        return;

    /* Where the one is a block of the other. */
    clear();
    fill(out + r * BLOCK, DENSE, BLOCK, r, 0);
    WELL(rf_all_gather_dlpack(comm, laid(&a, out + r * BLOCK, DENSE, BLOCK), laid(&b, out, DENSE, all), NULL, &error));
    for (int64_t i = 0; i < all; i++)
        HOLDS(out[i] == value(i / BLOCK, i % BLOCK));
    clear();
    fill(out, DENSE, all, r, 0);
    WELL(rf_reduce_scatter_dlpack(comm, laid(&a, out, DENSE, all), laid(&b, out + r * BLOCK, DENSE, BLOCK), RF_SUM, NULL, &error));
    for (int64_t i = 0; i < all; i++)
        HOLDS(out[i] == (i / BLOCK == r ? sum(i) : value(r, i)));
}

/* 1, 2 and 3 as bfloat16, every other place of six. */
static void narrow(void) {
    uint16_t data[6] = {0x3f80, 7, 0x4000, 7, 0x4040, 7};
    const rf_options pack = packing();
    tensor a;
    DLManagedTensorVersioned *one = view(&a, data, BF16, 1, 3, 6, 2);
    WELL(rf_all_reduce_dlpack(comm, one, one, RF_MEAN, &pack, &error));
    HOLDS(data[0] == 0x3f80 && data[2] == 0x4000 && data[4] == 0x4040 && data[1] == 7 && data[3] == 7 && data[5] == 7);
    /* Backwards, where the first element is the last one in memory. */
    one = view(&a, data + 4, BF16, 1, 3, -6, -2);
    uint16_t turned[3] = {0};
    tensor b;
    WELL(rf_all_reduce_dlpack(comm, one, view(&b, turned, BF16, 3, 1, 0, 0), RF_MAX, &pack, &error));
    HOLDS(turned[0] == 0x4040 && turned[1] == 0x4000 && turned[2] == 0x3f80);
}

static void refusals(void) {
    tensor a, b;
    const rf_options pack = packing();
    DLManagedTensorVersioned *one = laid(&a, in, DENSE, BLOCK), *other = laid(&b, out, DENSE, BLOCK);
    clear();
    REFUSED(rf_all_reduce_dlpack(NULL, one, other, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "communicator is NULL");
    REFUSED(rf_all_reduce_dlpack(comm, NULL, other, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "input is NULL");
    REFUSED(rf_all_reduce_dlpack(comm, one, NULL, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "output is NULL");
    REFUSED(rf_all_reduce_dlpack(comm, one, other, 99, NULL, &error), RF_INVALID_ARGUMENT, "number 99");
    REFUSED(rf_broadcast_dlpack(comm, one, other, n, NULL, &error), RF_INVALID_ARGUMENT, "root");
    REFUSED(rf_send_dlpack(comm, one, n, NULL, &error), RF_INVALID_ARGUMENT, "rank");
    a.managed.version.major = 2;
    REFUSED(rf_all_reduce_dlpack(comm, one, other, RF_SUM, NULL, &error), RF_UNSUPPORTED, "version 2.0");
    one = laid(&a, in, DENSE, BLOCK);
    a.managed.dl_tensor.dtype.code = 6;
    a.managed.dl_tensor.dtype.bits = 8;
    REFUSED(rf_all_reduce_dlpack(comm, one, other, RF_SUM, NULL, &error), RF_UNSUPPORTED, "bool");
    one = laid(&a, in, DENSE, BLOCK);
    a.managed.dl_tensor.device.device_type = 2;
    REFUSED(rf_all_reduce_dlpack(comm, one, other, RF_SUM, NULL, &error), RF_UNSUPPORTED, "CUDA device 0");
    rf_options staged = RF_OPTIONS_INIT;
    staged.staging = 1;
    staged.stream = in;
    /* Where there is a driver it has no such device. */
    a.managed.dl_tensor.device.device_id = 1000;
    REFUSED(rf_all_reduce_dlpack(comm, one, other, RF_SUM, &staged, &error), RF_UNAVAILABLE, "CUDA");
    one = laid(&a, in, DENSE, BLOCK);
    a.shape[1] = -1;
    REFUSED(rf_all_reduce_dlpack(comm, one, other, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "extent -1");
    one = laid(&a, in, DENSE, BLOCK);
    b.managed.flags = 1;
    REFUSED(rf_all_reduce_dlpack(comm, one, other, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "read-only");
    REFUSED(rf_all_reduce_dlpack(comm, other, other, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "read-only");
    other = laid(&b, in + 1, DENSE, BLOCK);
    REFUSED(rf_all_reduce_dlpack(comm, one, other, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "overlap");
    REFUSED(rf_all_reduce_dlpack(comm, one, view(&b, out, F32, 2, BLOCK, 0, 1), RF_SUM, &pack, &error), RF_INVALID_ARGUMENT,
            "share memory");
    REFUSED(rf_all_reduce_dlpack(comm, one, view(&b, out, I16, 1, BLOCK, 0, 0), RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "i16");
    REFUSED(rf_all_reduce_dlpack(comm, one, laid(&b, out, DENSE, BLOCK + 2), RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "needs");

    /* Strided tensors: only where they may be packed, and only in a call that blocks. */
    other = laid(&b, out, APART, BLOCK);
    REFUSED(rf_all_reduce_dlpack(comm, one, other, RF_SUM, NULL, &error), RF_UNSUPPORTED, "Options::pack");
    rf_options options = packing();
    rf_request *request = NULL;
    rf_prepared *prepared = NULL;
    options.request = &request;
    REFUSED(rf_all_reduce_dlpack(comm, one, other, RF_SUM, &options, &error), RF_UNSUPPORTED, "blocking");
    options.request = NULL;
    options.prepared = &prepared;
    REFUSED(rf_all_reduce_dlpack(comm, one, other, RF_SUM, &options, &error), RF_UNSUPPORTED, "blocking");
    HOLDS(request == NULL && prepared == NULL && written(in) == 0 && written(out) == 0);
}

/* Dense ones are started and prepared like other memory, and the structures may go before the end. */
static void later(void) {
    rf_options options = RF_OPTIONS_INIT;
    rf_request *request = NULL;
    rf_prepared *prepared = NULL;
    tensor a, b;
    clear();
    fill(in, DENSE, BLOCK, r, 0);
    options.request = &request;
    WELL(rf_all_reduce_dlpack(comm, laid(&a, in, DENSE, BLOCK), laid(&b, out, DENSE, BLOCK), RF_SUM, &options, &error));
    memset(&a, 0xff, sizeof a);
    memset(&b, 0xff, sizeof b);
    WELL(rf_request_wait(request, -1, &error));
    rf_request_release(request);
    for (int64_t i = 0; i < BLOCK; i++)
        HOLDS(out[i] == sum(i));
    WELL(rf_options_init(&options, sizeof options));
    options.prepared = &prepared;
    clear();
    WELL(rf_all_reduce_dlpack(comm, laid(&a, in, DENSE, BLOCK), laid(&b, out, DENSE, BLOCK), RF_SUM, &options, &error));
    memset(&a, 0xff, sizeof a);
    memset(&b, 0xff, sizeof b);
    for (int run = 0; run < 3; run++) {
        fill(in, DENSE, BLOCK, r, run);
        WELL(rf_prepared_run(prepared, &error));
        for (int64_t i = 0; i < BLOCK; i++)
            HOLDS(out[i] == sum(run + i));
    }
    rf_prepared_release(prepared);
}

int main(void) {
    HOLDS(rf_supports("feature:dlpack") == 1);
    WELL(rf_comm_create(NULL, &comm, &error));
    n = rf_comm_size(comm);
    r = rf_comm_rank(comm);
    HOLDS(n <= MOST);
    for (int from = 0; from < LAYOUTS; from++)
        for (int to = 0; to < LAYOUTS; to++)
            every_verb(from, to);
    for (int layout = 0; layout < LAYOUTS; layout++)
        in_place(layout);
    narrow();
    refusals();
    later();
    WELL(rf_barrier(comm, NULL, &error));
    rf_comm_release(comm);
    printf("borrowed, used and left alone\n");
    return 0;
}
