/* Arrow's arrays, batches and streams in every function: moved on success, and left alone where a call is refused. Any number of
 * ranks. What this program makes is counted until it is released. */
#include "check.h"

typedef struct ArrowSchema schema;
typedef struct ArrowArray array;
typedef struct ArrowArrayStream stream;

static rf_comm *comm;
static int64_t n, r;
static int schemas, arrays, streams;

enum { MOST = 8, ROWS = 5, KEYS = 7 };

static void *room(size_t size) {
    void *memory = calloc(1, size);
    HOLDS(memory != NULL);
    return memory;
}

/* What a producer is to do: the children with their parent, each once. */
static void release_schema(schema *self) {
    HOLDS(self->release != NULL);
    for (int64_t i = 0; i < self->n_children; i++) {
        if (self->children[i]->release != NULL)
            self->children[i]->release(self->children[i]);
        free(self->children[i]);
    }
    free(self->children);
    self->release = NULL;
    schemas--;
}

static void release_array(array *self) {
    HOLDS(self->release != NULL);
    for (int64_t i = 0; i < self->n_children; i++) {
        if (self->children[i]->release != NULL)
            self->children[i]->release(self->children[i]);
        free(self->children[i]);
    }
    free(self->children);
    for (int64_t i = 0; i < self->n_buffers; i++)
        free((void *)self->buffers[i]);
    free(self->buffers);
    self->release = NULL;
    arrays--;
}

static schema type_of(const char *format, const char *name) {
    schema made;
    memset(&made, 0, sizeof made);
    made.format = format;
    made.name = name;
    made.flags = ARROW_FLAG_NULLABLE;
    made.release = release_schema;
    schemas++;
    return made;
}

/* A schema gets a child; one of the same shape does an array below. */
static schema with_field(schema whole, schema part) {
    schema **children = room(sizeof(schema *) * (size_t)(whole.n_children + 1));
    for (int64_t i = 0; i < whole.n_children; i++)
        children[i] = whole.children[i];
    free(whole.children);
    children[whole.n_children] = room(sizeof part);
    *children[whole.n_children++] = part;
    whole.children = children;
    return whole;
}

static array with_column(array whole, array part) {
    array **children = room(sizeof(array *) * (size_t)(whole.n_children + 1));
    for (int64_t i = 0; i < whole.n_children; i++)
        children[i] = whole.children[i];
    free(whole.children);
    children[whole.n_children] = room(sizeof part);
    *children[whole.n_children++] = part;
    whole.children = children;
    return whole;
}

static array made_of(int64_t length, int64_t buffers) {
    array made;
    memset(&made, 0, sizeof made);
    made.length = length;
    made.n_buffers = buffers;
    made.buffers = room(sizeof(void *) * (size_t)buffers);
    made.release = release_array;
    arrays++;
    return made;
}

/* from, from + 1, ...; `null` is the row that has none, or -1. */
static array doubles(int64_t length, double from, int64_t null) {
    array made = made_of(length, 2);
    double *values = room(sizeof(double) * (size_t)(length + 1));
    for (int64_t i = 0; i < length; i++)
        values[i] = from + (double)i;
    made.buffers[1] = values;
    if (null >= 0) {
        uint8_t *there = room((size_t)length / 8 + 1);
        memset(there, 0xff, (size_t)length / 8 + 1);
        there[null / 8] &= (uint8_t) ~(1u << (null % 8));
        made.buffers[0] = there;
        made.null_count = 1;
    }
    return made;
}

static array longs(int64_t length, int64_t from) {
    array made = made_of(length, 2);
    int64_t *values = room(sizeof(int64_t) * (size_t)(length + 1));
    for (int64_t i = 0; i < length; i++)
        values[i] = from + i;
    made.buffers[1] = values;
    return made;
}

/* As many times "a", "ab", "abc" ... */
static array words(int64_t length) {
    array made = made_of(length, 3);
    int32_t *offsets = room(sizeof(int32_t) * (size_t)(length + 1));
    char *text = room((size_t)(length * (length + 1) / 2 + 1));
    for (int64_t i = 0; i < length; i++) {
        for (int64_t letter = 0; letter <= i; letter++)
            text[offsets[i] + letter] = (char)('a' + letter);
        offsets[i + 1] = offsets[i] + (int32_t)i + 1;
    }
    made.buffers[1] = offsets;
    made.buffers[2] = text;
    return made;
}

static double value(const array *of, int64_t row) {
    return ((const double *)of->buffers[1])[of->offset + row];
}

static int64_t number(const array *of, int64_t row) {
    return ((const int64_t *)of->buffers[1])[of->offset + row];
}

static int is_there(const array *of, int64_t row) {
    const uint8_t *there = of->buffers[0];
    row += of->offset;
    return there == NULL || (there[row / 8] >> (row % 8) & 1);
}

static schema table_type(void) {
    schema type = with_field(type_of("+s", ""), type_of("g", "x"));
    return with_field(type, type_of("l", "count"));
}

static array table(int64_t length, int64_t rank, int64_t null) {
    array made = with_column(made_of(length, 1), doubles(length, 10.0 * (double)rank, null));
    return with_column(made, longs(length, 100 * rank));
}

/* What is given to a stream, and whether it fails behind that. */
typedef struct {
    schema type;
    array chunks[MOST];
    int count, next, fails;
} source;

static schema copy_of(const schema *of) {
    schema copy = type_of(of->format, of->name);
    for (int64_t i = 0; i < of->n_children; i++)
        copy = with_field(copy, copy_of(of->children[i]));
    return copy;
}

static int get_schema(stream *self, schema *out) {
    *out = copy_of(&((source *)self->private_data)->type);
    return 0;
}

static int get_next(stream *self, array *out) {
    source *from = self->private_data;
    memset(out, 0, sizeof *out);
    if (from->next < from->count)
        *out = from->chunks[from->next++];
    else if (from->fails)
        return 5;
    return 0;
}

static const char *get_last_error(stream *self) {
    (void)self;
    return "the disk is full of holes";
}

static void release_stream(stream *self) {
    source *from = self->private_data;
    for (int i = from->next; i < from->count; i++)
        from->chunks[i].release(&from->chunks[i]);
    from->type.release(&from->type);
    free(from);
    self->release = NULL;
    streams--;
}

static stream stream_of(schema type, int count, const array *chunks, int fails) {
    source *from = room(sizeof *from);
    from->type = type;
    from->count = count;
    from->fails = fails;
    for (int i = 0; i < count; i++)
        from->chunks[i] = chunks[i];
    stream made = {get_schema, get_next, get_last_error, release_stream, from};
    streams++;
    return made;
}

/* Reads a stream to its end, and releases it. */
static int drained(stream *from, array *chunks) {
    int count = 0;
    for (;; count++) {
        array chunk;
        HOLDS(from->get_next(from, &chunk) == 0);
        if (chunk.release == NULL)
            break;
        HOLDS(count < MOST);
        chunks[count] = chunk;
    }
    from->release(from);
    return count;
}

static void done(schema *type, const array *given) {
    HOLDS(given->release == NULL);
    type->release(type);
}

/* The sum of so much of every rank, and of what each has more. */
static double sum(double each, double more) {
    return (double)n * each + more * (double)(n * (n - 1) / 2);
}

static void reductions(void) {
    rf_options skip = RF_OPTIONS_INIT;
    skip.nulls = RF_NULLS_SKIP;

    schema type = type_of("g", "x"), out_type;
    array in = doubles(ROWS, (double)r, -1), out;
    WELL(rf_all_reduce_arrow(comm, &type, &in, &out_type, &out, RF_SUM, NULL, &error));
    done(&type, &in);
    HOLDS(strcmp(out_type.format, "g") == 0 && strcmp(out_type.name, "x") == 0);
    HOLDS(out.length == ROWS && out.null_count == 0);
    for (int64_t i = 0; i < ROWS; i++)
        HOLDS(value(&out, i) == sum((double)i, 1));
    out_type.release(&out_type);
    out.release(&out);

    /* The result in the place of the input, and row 0 of nobody, row 1 of all but rank 0. */
    type = type_of("g", "x");
    in = doubles(ROWS, (double)r, r == 0 ? 1 : 0);
    WELL(rf_all_reduce_arrow(comm, &type, &in, NULL, &in, RF_MEAN, &skip, &error));
    HOLDS(in.release != NULL && is_there(&in, 0) && is_there(&in, 1) == (n > 1));
    HOLDS(value(&in, 0) == 0 && (n == 1 || value(&in, 1) == 1 + (double)n / 2));
    in.release(&in);
    type.release(&type);

    type = table_type();
    in = table(ROWS, r, 2);
    WELL(rf_all_reduce_arrow(comm, &type, &in, &out_type, &out, RF_SUM, &skip, &error));
    done(&type, &in);
    HOLDS(out.n_children == 2 && strcmp(out_type.children[1]->name, "count") == 0);
    for (int64_t i = 0; i < ROWS; i++) {
        HOLDS(is_there(out.children[0], i) == (i != 2));
        HOLDS(i == 2 || value(out.children[0], i) == sum((double)i, 10));
        HOLDS((double)number(out.children[1], i) == sum((double)i, 100));
    }
    out_type.release(&out_type);
    out.release(&out);

    for (int64_t root = 0; root < n; root++) {
        type = table_type();
        in = table(ROWS, r, -1);
        memset(&out, 0xff, sizeof out);
        memset(&out_type, 0xff, sizeof out_type);
        /* A rank that is none may want nothing, or look at what comes. */
        const int wants = r == root || root % 2 == 0;
        WELL(rf_reduce_arrow(comm, &type, &in, wants ? &out_type : NULL, wants ? &out : NULL, RF_MAX, root, NULL, &error));
        done(&type, &in);
        if (r == root) {
            HOLDS(value(out.children[0], 1) == 10.0 * (double)(n - 1) + 1);
            out.release(&out);
            out_type.release(&out_type);
        } else if (wants) {
            HOLDS(out.release == NULL && out_type.release == NULL);
        }
    }

    type = type_of("l", "");
    in = longs(ROWS, 0);
    WELL(rf_reduce_scatter_arrow(comm, &type, &in, NULL, &out, RF_SUM, NULL, &error));
    done(&type, &in);
    const int64_t begin = r * (ROWS / n) + (r < ROWS % n ? r : ROWS % n);
    HOLDS(out.length == ROWS / n + (r < ROWS % n));
    for (int64_t i = 0; i < out.length; i++)
        HOLDS(number(&out, i) == n * (begin + i));
    out.release(&out);

    /* Chunks, others on each rank; and those of a table. */
    array chunks[3] = {doubles(r % ROWS, 0, -1), doubles(0, 0, -1), doubles(ROWS - r % ROWS, (double)(r % ROWS), -1)};
    stream from = stream_of(type_of("g", "x"), 3, chunks, 0);
    WELL(rf_all_reduce_arrow_stream(comm, &from, &out_type, &out, RF_SUM, NULL, &error));
    HOLDS(from.release == NULL && out.length == ROWS && strcmp(out_type.name, "x") == 0);
    for (int64_t i = 0; i < ROWS; i++)
        HOLDS(value(&out, i) == sum((double)i, 0));
    out_type.release(&out_type);
    out.release(&out);
    chunks[0] = table(ROWS, r, -1);
    from = stream_of(table_type(), 1, chunks, 0);
    WELL(rf_all_reduce_arrow_stream(comm, &from, NULL, &out, RF_SUM, NULL, &error));
    HOLDS(from.release == NULL && value(out.children[0], 1) == sum(1, 10));
    out.release(&out);
    from = stream_of(type_of("g", "x"), 0, NULL, 0);
    WELL(rf_all_reduce_arrow_stream(comm, &from, NULL, &out, RF_SUM, NULL, &error));
    HOLDS(from.release == NULL && out.length == 0);
    out.release(&out);
}

static void tables(void) {
    schema type, out_type;
    array in, out, chunks[MOST];
    stream to;
    for (int64_t root = 0; root < n; root++) {
        /* An array stays one, with its name, and a batch a batch. */
        type = type_of("u", "word");
        in = words(ROWS);
        WELL(rf_broadcast_arrow(comm, r == root ? &type : NULL, r == root ? &in : NULL, &out_type, &out, root, NULL, &error));
        HOLDS((in.release == NULL) == (r == root));
        HOLDS(strcmp(out_type.format, "u") == 0 && strcmp(out_type.name, "word") == 0 && out.length == ROWS);
        const int32_t *offsets = (const int32_t *)out.buffers[1] + out.offset;
        HOLDS(offsets[ROWS] - offsets[ROWS - 1] == ROWS && memcmp((const char *)out.buffers[2] + offsets[2], "abc", 3) == 0);
        out_type.release(&out_type);
        out.release(&out);
        if (r != root)
            in.release(&in);
        type.release(&type);

        type = with_field(type_of("+s", ""), type_of("g", ""));
        in = with_column(made_of(3, 1), doubles(3, 7, 1));
        WELL(rf_broadcast_arrow(comm, &type, &in, &out_type, &out, root, NULL, &error));
        HOLDS(strcmp(out_type.format, "+s") == 0 && out.n_children == 1 && value(out.children[0], 2) == 9);
        HOLDS(!is_there(out.children[0], 1));
        if (r != root)
            in.release(&in);
        out_type.release(&out_type);
        out.release(&out);
        type.release(&type);

        /* Gathered to a root, of a length for each rank. */
        type = table_type();
        in = table(r + 1, r, -1);
        memset(&to, 0xff, sizeof to);
        WELL(rf_gather_arrow(comm, &type, &in, r == root || root % 2 == 0 ? &to : NULL, root, NULL, &error));
        done(&type, &in);
        if (r == root) {
            HOLDS(drained(&to, chunks) == n);
            for (int64_t from = 0; from < n; from++) {
                HOLDS(chunks[from].length == from + 1 && value(chunks[from].children[0], from) == 11.0 * (double)from);
                chunks[from].release(&chunks[from]);
            }
        } else if (root % 2 == 0) {
            HOLDS(to.release == NULL);
        }
    }

    /* To all; arrays stay arrays, with nulls where some have none. */
    type = type_of("g", "x");
    in = doubles(r + 1, (double)r, r == 0 ? 0 : -1);
    WELL(rf_all_gather_arrow(comm, &type, &in, &to, NULL, &error));
    done(&type, &in);
    HOLDS(to.get_schema(&to, &out_type) == 0 && strcmp(out_type.format, "g") == 0 && strcmp(out_type.name, "x") == 0);
    out_type.release(&out_type);
    HOLDS(drained(&to, chunks) == n);
    for (int64_t from = 0; from < n; from++) {
        HOLDS(chunks[from].length == from + 1 && is_there(&chunks[from], 0) == (from != 0));
        HOLDS(from == 0 || value(&chunks[from], from) == 2.0 * (double)from);
        chunks[from].release(&chunks[from]);
    }

    /* From each to each: as many rows as rank and peer make. */
    for (int64_t peer = 0; peer < n; peer++)
        chunks[peer] = table(r + peer, r, -1);
    stream from = stream_of(table_type(), (int)n, chunks, 0);
    WELL(rf_all_to_all_arrow(comm, &from, &to, NULL, &error));
    HOLDS(from.release == NULL && drained(&to, chunks) == n);
    for (int64_t peer = 0; peer < n; peer++) {
        HOLDS(chunks[peer].length == r + peer);
        HOLDS(chunks[peer].length == 0 || number(chunks[peer].children[1], 0) == 100 * peer);
        chunks[peer].release(&chunks[peer]);
    }

    /* By keys: all of one key on one rank, and none is lost. */
    int64_t found[KEYS] = {0};
    type = with_field(with_field(type_of("+s", ""), type_of("l", "key")), type_of("g", "x"));
    in = with_column(with_column(made_of(KEYS, 1), longs(KEYS, 0)), doubles(KEYS, 100.0 * (double)r, -1));
    WELL(rf_shuffle_arrow(comm, &type, &in, &out_type, &out, "key", NULL, &error));
    done(&type, &in);
    for (int64_t row = 0; row < out.length; row++) {
        const int64_t key = number(out.children[0], row);
        HOLDS(key >= 0 && key < KEYS && value(out.children[1], row) == 100.0 * (double)found[key] + (double)key);
        found[key]++;
    }
    HOLDS(strcmp(out_type.children[1]->name, "x") == 0);
    out_type.release(&out_type);
    out.release(&out);
    for (int key = 0; key < KEYS; key++)
        HOLDS(found[key] == 0 || found[key] == n);
    WELL(rf_all_reduce(comm, found, found, KEYS, RF_I64, RF_SUM, NULL, &error));
    for (int key = 0; key < KEYS; key++)
        HOLDS(found[key] == n);
}

/* Every one of these leaves the input where it was; an output that is written would show. */
#define LEFT(call, status, words)                                                  \
    do {                                                                           \
        memset(&out, 0x5a, sizeof out), memset(&to, 0x5a, sizeof to);              \
        REFUSED(call, status, words);                                              \
        HOLDS(error.kind == RF_KIND_REFUSED && rf_comm_failure(comm, NULL) == RF_OK); \
        HOLDS(in.release == release_array && number(in.children[1], 1) == 100 * r + 1); \
        HOLDS(type.release == release_schema && arrays == 3 && schemas == 3);      \
        HOLDS(memcmp(&out, untouched, sizeof out) == 0 && memcmp(&to, untouched, sizeof to) == 0); \
    } while (0)

static void refusals(void) {
    schema type = table_type();
    array in = table(ROWS, r, 3), out;
    stream to;
    char untouched[sizeof out];
    memset(untouched, 0x5a, sizeof untouched);
    HOLDS(arrays == 3 && schemas == 3);

    /* Told to all, wherever it is. */
    LEFT(rf_all_reduce_arrow(comm, NULL, &in, NULL, &out, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "rank 0: schema: NULL");
    LEFT(rf_all_reduce_arrow(comm, &type, NULL, NULL, &out, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "rank 0: array: NULL");
    LEFT(rf_all_reduce_arrow(comm, &type, &in, NULL, NULL, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "output is NULL");
    LEFT(rf_all_reduce_arrow(comm, &type, &in, &type, &out, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "schema of the input");
    LEFT(rf_all_reduce_arrow(comm, &type, &in, NULL, &out, 99, NULL, &error), RF_INVALID_ARGUMENT, "number 99");
    LEFT(rf_reduce_arrow(comm, &type, &in, NULL, &out, RF_SUM, n, NULL, &error), RF_INVALID_ARGUMENT, "root");
    LEFT(rf_reduce_arrow(comm, &type, &in, NULL, &out, RF_SUM, -1, NULL, &error), RF_INVALID_ARGUMENT, "root -1");
    LEFT(rf_reduce_arrow(comm, &type, &in, NULL, NULL, RF_SUM, 0, NULL, &error), RF_INVALID_ARGUMENT, "rank 0: the output is NULL");
    LEFT(rf_reduce_scatter_arrow(comm, &type, &in, NULL, NULL, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "output is NULL");
    LEFT(rf_broadcast_arrow(comm, NULL, NULL, NULL, &out, 0, NULL, &error), RF_INVALID_ARGUMENT, "rank 0: array: NULL");
    LEFT(rf_broadcast_arrow(comm, &type, &in, NULL, &out, n, NULL, &error), RF_INVALID_ARGUMENT, "root");
    LEFT(rf_shuffle_arrow(comm, &type, &in, NULL, &out, "y", NULL, &error), RF_INVALID_ARGUMENT, "no column is called \"y\"");
    LEFT(rf_shuffle_arrow(comm, &type, &in, NULL, &out, NULL, NULL, &error), RF_INVALID_ARGUMENT, "key is NULL");
    LEFT(rf_shuffle_arrow(comm, type.children[0], in.children[0], NULL, &out, "x", NULL, &error), RF_INVALID_ARGUMENT,
         "no record batch");
    LEFT(rf_all_gather_arrow(comm, &type, &in, NULL, NULL, &error), RF_INVALID_ARGUMENT, "output is NULL");
    LEFT(rf_gather_arrow(comm, &type, &in, &to, n, NULL, &error), RF_INVALID_ARGUMENT, "root");
    LEFT(rf_all_to_all_arrow(comm, NULL, &to, NULL, &error), RF_INVALID_ARGUMENT, "stream");
    LEFT(rf_all_reduce_arrow_stream(comm, NULL, NULL, &out, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "stream");

    /* Of one rank alone, to all. */
    const int odd = r == n - 1;
    char told[64];
    snprintf(told, sizeof told, "rank %d: array: NULL", (int)n - 1);
    LEFT(rf_all_reduce_arrow(comm, &type, odd ? NULL : &in, NULL, &out, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, told);
    HOLDS(error.peer == n - 1 && strcmp(error.collective, "all_reduce") == 0);
    LEFT(rf_all_gather_arrow(comm, &type, odd ? NULL : &in, &to, NULL, &error), RF_INVALID_ARGUMENT, told);
    LEFT(rf_shuffle_arrow(comm, &type, odd ? NULL : &in, NULL, &out, "count", NULL, &error), RF_INVALID_ARGUMENT, told);
    LEFT(rf_gather_arrow(comm, &type, odd ? NULL : &in, &to, 0, NULL, &error), RF_INVALID_ARGUMENT, told);
    in.length = odd ? -1 : ROWS;
    LEFT(rf_all_reduce_arrow(comm, &type, &in, NULL, &out, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "length is -1");
    in.length = ROWS;
    type.format = odd ? "+x" : "+s";
    LEFT(rf_all_gather_arrow(comm, &type, &in, &to, NULL, &error), RF_UNSUPPORTED, "\"+x\" is not known");
    type.format = "+s";
    void (*release)(array *) = in.release;
    in.release = NULL;
    REFUSED(rf_all_reduce_arrow(comm, &type, &in, NULL, &out, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "released or moved");
    in.release = release;

    /* Nulls, and what ranks do not have alike. */
    rf_options options = RF_OPTIONS_INIT;
    LEFT(rf_all_reduce_arrow(comm, &type, &in, NULL, &out, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT,
         "column \"x\" has 1 null on rank 0");
    options.nulls = RF_NULLS_REJECT;
    LEFT(rf_reduce_scatter_arrow(comm, &type, &in, NULL, &out, RF_SUM, &options, &error), RF_INVALID_ARGUMENT, "1 null");
    options.nulls = RF_NULLS_SKIP;
    LEFT(rf_all_reduce_arrow(comm, &type, &in, NULL, &out, RF_BITAND, &options, &error), RF_UNSUPPORTED, "column \"x\"");
    if (n > 1) {
        type.children[1]->name = odd ? "number" : "count";
        LEFT(rf_all_reduce_arrow(comm, &type, &in, NULL, &out, RF_SUM, &options, &error), RF_MISMATCH, "column \"number\"");
        LEFT(rf_all_gather_arrow(comm, &type, &in, &to, NULL, &error), RF_MISMATCH, "column \"number\"");
        type.children[1]->name = "count";
        LEFT(rf_reduce_arrow(comm, &type, &in, NULL, &out, RF_SUM, odd ? 0 : n - 1, &options, &error), RF_MISMATCH, "root");
        in.length = in.children[0]->length = in.children[1]->length = odd ? ROWS - 1 : ROWS;
        LEFT(rf_all_reduce_arrow(comm, &type, &in, NULL, &out, RF_SUM, &options, &error), RF_MISMATCH, "4 on rank");
        in.length = in.children[0]->length = in.children[1]->length = ROWS;
    }

    /* Options, which are told to nobody else. */
    options.nulls = 3;
    LEFT(rf_all_reduce_arrow(comm, &type, &in, NULL, &out, RF_SUM, &options, &error), RF_INVALID_ARGUMENT, "policy of nulls");
    options.nulls = RF_NULLS_UNSAID;
    options.staging = 2;
    LEFT(rf_all_reduce_arrow(comm, &type, &in, NULL, &out, RF_SUM, &options, &error), RF_INVALID_ARGUMENT, "staging is 2");
    options.staging = 0;
    rf_request *request = NULL;
    options.request = &request;
    LEFT(rf_all_reduce_arrow(comm, &type, &in, NULL, &out, RF_SUM, &options, &error), RF_UNSUPPORTED, "rf_comm_duplicate");
    WELL(rf_options_init(&options, sizeof options));
    rf_prepared *prepared = NULL;
    options.prepared = &prepared;
    LEFT(rf_all_gather_arrow(comm, &type, &in, &to, &options, &error), RF_UNSUPPORTED, "neither started nor prepared");
    HOLDS(request == NULL && prepared == NULL);
    LEFT(rf_all_reduce_arrow(NULL, &type, &in, NULL, &out, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "communicator is NULL");

    in.release(&in);
    type.release(&type);
}

/* After an error a stream gives the same once more. */
static void streams_again(void) {
    array chunks[MOST], out;
    stream to;
    for (int64_t i = 0; i + 1 < n; i++)
        chunks[i] = doubles(i, (double)i, -1);
    stream from = stream_of(type_of("g", "x"), (int)n - 1, chunks, 0);
    REFUSED(rf_all_to_all_arrow(comm, &from, &to, NULL, &error), RF_INVALID_ARGUMENT, "ranks");
    REFUSED(rf_all_to_all_arrow(comm, &from, &to, NULL, &error), RF_INVALID_ARGUMENT, "ranks");
    HOLDS(from.release != NULL && error.kind == RF_KIND_REFUSED);
    schema type;
    HOLDS(from.get_schema(&from, &type) == 0 && strcmp(type.format, "g") == 0 && strcmp(type.name, "x") == 0);
    type.release(&type);
    HOLDS(drained(&from, chunks) == n - 1);
    for (int64_t i = 0; i + 1 < n; i++) {
        HOLDS(chunks[i].length == i && (i == 0 || value(&chunks[i], i - 1) == (double)(2 * i - 1)));
        chunks[i].release(&chunks[i]);
    }

    /* One too many; what was not read is there as well. */
    for (int64_t i = 0; i < n + 2; i++)
        chunks[i] = doubles(1, (double)i, -1);
    from = stream_of(type_of("g", "x"), (int)n + 2, chunks, 0);
    REFUSED(rf_all_to_all_arrow(comm, &from, &to, NULL, &error), RF_INVALID_ARGUMENT, "more than");
    WELL(rf_all_reduce_arrow_stream(comm, &from, NULL, &out, RF_SUM, NULL, &error));
    HOLDS(from.release == NULL && out.length == n + 2 && value(&out, n + 1) == sum((double)n + 1, 0));
    out.release(&out);

    /* A producer that fails, on rank 0 alone: told to all, and once more to who asks. */
    chunks[0] = doubles(2, 0, -1);
    from = stream_of(type_of("g", "x"), 1, chunks, r == 0);
    for (int again = 0; again < 2; again++) {
        REFUSED(rf_all_reduce_arrow_stream(comm, &from, NULL, &out, RF_SUM, NULL, &error), RF_IO,
                "the disk is full of holes");
    }
    HOLDS(from.get_next(&from, &chunks[0]) == 0 && value(&chunks[0], 1) == 1);
    chunks[0].release(&chunks[0]);
    HOLDS(r != 0 || (from.get_next(&from, &chunks[0]) != 0 && strstr(from.get_last_error(&from), "holes") != NULL));
    from.release(&from);
    REFUSED(rf_all_reduce_arrow_stream(comm, &from, NULL, &out, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "released");
}

static void nothing_is_left(const char *where) {
    if (schemas != 0 || arrays != 0 || streams != 0) {
        fprintf(stderr, "after %s: %d schemas, %d arrays, %d streams are left\n", where, schemas, arrays, streams);
        exit(1);
    }
}

int main(void) {
    HOLDS(rf_supports("feature:arrow") == 1);
    WELL(rf_comm_create(NULL, &comm, &error));
    n = rf_comm_size(comm);
    r = rf_comm_rank(comm);
    HOLDS(n + 2 <= MOST);
    reductions();
    nothing_is_left("reductions");
    tables();
    nothing_is_left("tables");
    refusals();
    nothing_is_left("refusals");
    streams_again();
    nothing_is_left("streams");
    WELL(rf_barrier(comm, NULL, &error));
    rf_comm_release(comm);
    printf("moved where it went well, and only there\n");
    return 0;
}
