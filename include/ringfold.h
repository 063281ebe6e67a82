/*
 * ringfold: collective communication for tasks that must agree.
 *
 * Generated from ffi/c; do not edit. ffi/README.md says how to bind it: who owns what, which thread may call what, what errors
 * mean, and what will never change.
 *
 * In short: a call returns RF_OK or another rf_status, and fills in an rf_error where one is passed. Handles are made by a
 * function that writes them to *out, and released by the one that ends in _release. Counts are elements, sizes are bytes,
 * times are nanoseconds. Every call has a deadline; none exits or aborts the process.
 */

#ifndef RINGFOLD_H
#define RINGFOLD_H

#include <stdint.h>

/* A tensor as DLPack 1 describes it: a program that uses one includes dlpack.h, or has the structure by other ways. */
struct DLManagedTensorVersioned;

/* Arrow's C data and stream interfaces, as https://arrow.apache.org/docs/format/CDataInterface.html defines them, under the guards
 * that every header with them has: whichever comes first defines them. */
#ifdef __cplusplus
extern "C" {
#endif

#ifndef ARROW_C_DATA_INTERFACE
#define ARROW_C_DATA_INTERFACE

#define ARROW_FLAG_DICTIONARY_ORDERED 1
#define ARROW_FLAG_NULLABLE 2
#define ARROW_FLAG_MAP_KEYS_SORTED 4

struct ArrowSchema {
    const char *format;
    const char *name;
    const char *metadata;
    int64_t flags;
    int64_t n_children;
    struct ArrowSchema **children;
    struct ArrowSchema *dictionary;
    void (*release)(struct ArrowSchema *);
    void *private_data;
};

struct ArrowArray {
    int64_t length;
    int64_t null_count;
    int64_t offset;
    int64_t n_buffers;
    int64_t n_children;
    const void **buffers;
    struct ArrowArray **children;
    struct ArrowArray *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};

#endif /* ARROW_C_DATA_INTERFACE */

#ifndef ARROW_C_STREAM_INTERFACE
#define ARROW_C_STREAM_INTERFACE

struct ArrowArrayStream {
    int (*get_schema)(struct ArrowArrayStream *, struct ArrowSchema *out);
    int (*get_next)(struct ArrowArrayStream *, struct ArrowArray *out);
    const char *(*get_last_error)(struct ArrowArrayStream *);
    void (*release)(struct ArrowArrayStream *);
    void *private_data;
};

#endif /* ARROW_C_STREAM_INTERFACE */

#ifdef __cplusplus
}
#endif

/**
 * The version of the header, as rf_version gives that of the library.
 */
#define RF_VERSION 100

/**
 * The longest text of an error, in bytes, with the zero at its end.
 */
#define RF_ERROR_TEXT 1024

/**
 * The longest name of a host.
 */
#define RF_ERROR_HOST 256

/**
 * The longest name of a collective.
 */
#define RF_ERROR_COLLECTIVE 32

/**
 * Start from nothing, instead of from the process environment and its configuration file.
 */
#define RF_CONFIG_BARE 1

/**
 * One rank's membership in a group. Used by one thread at a time: a call that finds another thread in one returns
 * RF_CONCURRENT and has not happened. Only rf_comm_abort, rf_comm_failure, rf_comm_counters and the functions that ask for
 * numbers and names may be called at any time, by any thread.
 */
typedef struct rf_comm rf_comm;

/**
 * Memory that the other ranks of the host can see: operations whose ranks all pass such are the fastest. Others look into it, or
 * write what it is to receive, while its rank is in a call that was given it, and at no other time. May be kept
 * longer than the communicator.
 */
typedef struct rf_memory rf_memory;

/**
 * An operation that is checked once and run again and again, over the memory that it was prepared with. Between its runs that
 * can be read and written. Each run is a call of its communicator like any other, in its order, on all ranks.
 */
typedef struct rf_prepared rf_prepared;

/**
 * A reduction of the caller's, for any number of communicators and threads.
 */
typedef struct rf_reduction rf_reduction;

/**
 * An operation that has been started. It goes on whatever is done with the handle. May be used by any thread, and by several.
 */
typedef struct rf_request rf_request;

/**
 * What a call returns. 18 to 255 are reserved for other errors; no status is negative.
 */
typedef int32_t rf_status;

/**
 * What can be done about a status. 6 to 255 are reserved.
 */
typedef int32_t rf_kind;

/**
 * An error in full: who, what, why, and what to do. The caller sets `size` (`RF_ERROR_INIT`, or rf_error_init); a call that
 * gets it writes the rest, after a success as well, and looks at nothing else in it. Each call takes NULL instead. Where `size` cannot
 * be, the call returns RF_INVALID_ARGUMENT and nothing is written.
 */
typedef struct {
    /**
     * sizeof(rf_error), set by the caller.
     */
    uint32_t size;
    /**
     * What the call returned.
     */
    rf_status status;
    /**
     * What can be done about it.
     */
    rf_kind kind;
    /**
     * 0.
     */
    int32_t reserved;
    /**
     * The rank that reports it, or -1.
     */
    int64_t rank;
    /**
     * The rank that is to blame, or -1.
     */
    int64_t peer;
    /**
     * The number of the operation, from 0 in each communicator, or -1.
     */
    int64_t sequence;
    /**
     * The generation of the group, or -1.
     */
    int64_t generation;
    /**
     * The host of the rank that is to blame, or "".
     */
    char host[RF_ERROR_HOST];
    /**
     * The collective, or "".
     */
    char collective[RF_ERROR_COLLECTIVE];
    /**
     * All of it in words, and what to do.
     */
    char text[RF_ERROR_TEXT];
} rf_error;

/**
 * One thing that is set by its name, as it would stand in a configuration file: {"deadline", "90s"}.
 */
typedef struct {
    /**
     * The key. rf_key lists them.
     */
    const char *key;
    /**
     * The value, as text.
     */
    const char *value;
} rf_setting;

/**
 * How loud a line of the log is. 6 to 255 are reserved.
 */
typedef int32_t rf_level;

/**
 * Gets a line of the log: its level, the module that tells it, and the text with its fields. Called on the caller's thread or on
 * one of the library's, several of which may call at once; not to block, and not to call this library.
 */
typedef void (*rf_log_fn)(void *context, rf_level level, const char *target, const char *text);

/**
 * Is told that a context is not used any more. On any thread; not to block, and not to call this library.
 */
typedef void (*rf_destroy_fn)(void *context);

/**
 * How a group forms. Made ready by RF_CONFIG_INIT or rf_config_init; what is not set afterwards is what the environment says, else
 * the default. What the fields say wins over the environment, and `settings` win over the fields.
 */
typedef struct {
    /**
     * sizeof(rf_config).
     */
    uint32_t size;
    /**
     * RF_CONFIG_BARE, or 0.
     */
    uint32_t flags;
    /**
     * This rank; -1: not set here.
     */
    int64_t rank;
    /**
     * The number of ranks; -1: not set here.
     */
    int64_t world_size;
    /**
     * Where the group meets: "host:port", where rank 0 listens, or "file:///directory" that all ranks share. NULL: not set here.
     */
    const char *store;
    /**
     * How long an operation may take, in nanoseconds; 0: not set here.
     */
    int64_t deadline_ns;
    /**
     * How long the forming of the group may take, in nanoseconds; 0: not set here.
     */
    int64_t init_deadline_ns;
    /**
     * All that there is, by its name.
     */
    const rf_setting *settings;
    /**
     * How many of them.
     */
    uint64_t settings_count;
    /**
     * What to log, such as "info" or "warn,ringfold::transport=debug"; NULL: "warn".
     */
    const char *log_filter;
    /**
     * Gets the log of this communicator and of those split from it; NULL: nobody does.
     */
    rf_log_fn log;
    /**
     * Handed to `log`.
     */
    void *log_context;
    /**
     * Told when `log` is not called any more: after the communicator, those split from it and their threads have ended, or when
     * no communicator came of it, unless `size` is wrong. NULL: nobody is told.
     */
    rf_destroy_fn log_destroy;
} rf_config;

/**
 * A key of the configuration. The texts live for ever.
 */
typedef struct {
    /**
     * sizeof(rf_key_info), set by the caller (RF_KEY_INIT) and left.
     */
    uint32_t size;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * Its name in settings and in a file.
     */
    const char *name;
    /**
     * Its name in the environment.
     */
    const char *environment;
    /**
     * What holds where nobody says anything.
     */
    const char *default_value;
    /**
     * What it is, and what may be given.
     */
    const char *meaning;
} rf_key_info;

/**
 * Takes an answer: the message of a rank. The bytes are copied before it returns. It may be called on any thread, in any order
 * of ranks, once for each rank, and only before the all-gather that it was handed to has returned: a call after that returns
 * RF_INVALID_ARGUMENT as long as rf_comm_create_by has not returned, and is undefined later. With rank -1 the bytes
 * are text: why the all-gather is about to fail.
 */
typedef rf_status (*rf_sink_fn)(void *sink, int64_t rank, const void *bytes, uint64_t length);

/**
 * Gathers the messages of all ranks, this one's own among them, and gives each to `take`. Blocks until all ranks have called it,
 * at most `timeout_ns`. Returns 0, or another number of its own where it fails, which the error tells.
 */
typedef int32_t (*rf_all_gather_fn)(void *context,
                                    const void *message,
                                    uint64_t length,
                                    int64_t timeout_ns,
                                    rf_sink_fn take,
                                    void *sink);

/**
 * An all-gather of small byte strings (at most 64 KiB) among the ranks of a group that is being formed: all that ringfold needs
 * to form it. `all_gather` is called on the thread that is in rf_comm_create_by, at most twice, while it is there.
 */
typedef struct {
    /**
     * sizeof(rf_exchange), set by the caller (RF_EXCHANGE_INIT, or rf_exchange_init).
     */
    uint32_t size;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * This rank.
     */
    int64_t rank;
    /**
     * The number of ranks.
     */
    int64_t world_size;
    /**
     * The all-gather.
     */
    rf_all_gather_fn all_gather;
    /**
     * Handed to it.
     */
    void *context;
    /**
     * Told when it is not used any more, once, before rf_comm_create_by returns; also where that fails, unless `size` is wrong.
     * NULL: nobody is told.
     */
    rf_destroy_fn destroy;
} rf_exchange;

/**
 * What a communicator has counted since it was made.
 */
typedef struct {
    /**
     * sizeof(rf_counters), set by the caller (RF_COUNTERS_INIT) and left.
     */
    uint32_t size;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * Operations that have ended well.
     */
    uint64_t completed;
    /**
     * Operations that have ended with an error after they had begun.
     */
    uint64_t failed;
    /**
     * Bytes of those that ended well: of each, this rank's input or output, whichever is larger.
     */
    uint64_t bytes;
    /**
     * Nanoseconds from submission to end, of all of them.
     */
    uint64_t time_ns;
    /**
     * Bytes sent to other ranks, or written to their memory.
     */
    uint64_t bytes_sent;
    /**
     * Bytes received from other ranks, or read from their memory.
     */
    uint64_t bytes_received;
    /**
     * How often the system was asked to wait.
     */
    uint64_t waits;
    /**
     * Nanoseconds in these waits.
     */
    uint64_t waiting_ns;
    /**
     * Plans that had to be made.
     */
    uint64_t plans_made;
    /**
     * Operations whose plan was there.
     */
    uint64_t plans_found;
    /**
     * Bytes of memory held for partial results and for what arrives.
     */
    uint64_t scratch_bytes;
} rf_counters;

/**
 * What is promised about the order of combination. 3 to 255 are reserved.
 */
typedef int32_t rf_order;

/**
 * When ranks compare what they ask for. 4 to 255 are reserved.
 */
typedef int32_t rf_check;

/**
 * What becomes of nulls, in reductions of Arrow data. 3 to 255 are reserved.
 */
typedef int32_t rf_nulls;

/**
 * What can be said of one call; NULL in its place says nothing. Made ready by RF_OPTIONS_INIT or rf_options_init. All but the
 * deadline, `pack`, `stream`, `request` and `prepared` must be alike on all ranks.
 */
typedef struct {
    /**
     * sizeof(rf_options).
     */
    uint32_t size;
    /**
     * What is promised about the order of combination.
     */
    rf_order order;
    /**
     * When ranks compare what they ask for.
     */
    rf_check check;
    /**
     * 1: strided tensors on the host, which the functions that end in _dlpack can be given, are packed into dense memory for
     * the time of the call, and an output is unpacked when that has succeeded. Not where it is started or prepared. 0: they are
     * refused.
     */
    uint32_t pack;
    /**
     * How long the call may take, in nanoseconds; when it passes, the group fails. 0: as the communicator has it.
     */
    int64_t deadline_ns;
    /**
     * The algorithm by its name; NULL: the table's choice.
     */
    const char *algorithm;
    /**
     * The stream of the tensors' device that the call follows: a cudaStream_t or CUstream, there until the call is complete. NULL: the
     * device's default stream. It says nothing of tensors on the host.
     */
    void *stream;
    /**
     * The reduction that RF_CUSTOM stands for.
     */
    const rf_reduction *reduction;
    /**
     * Not NULL: the call is started and returns at once, and its handle goes there. Until it is complete its memory must stay,
     * and nobody else writes what it reads or reads what it writes.
     */
    rf_request **request;
    /**
     * Not NULL: the call is checked, but not carried out, and a handle goes there by which it can be run again and again. Its
     * memory must stay until that is released.
     */
    rf_prepared **prepared;
    /**
     * What becomes of nulls. Only the functions that end in _arrow, or in _arrow_stream, meet any.
     */
    rf_nulls nulls;
    /**
     * 1: tensors that lie where the backend cannot reach, which the functions that end in _dlpack can be given, are copied to where
     * it can, by way of pinned memory, and an output is copied back. Not where the call is started or prepared. 0: they are refused.
     */
    uint32_t staging;
} rf_options;

/**
 * The element type of a tensor, as DLPack describes it: a kind of number, the bits of one, and 1. Any other number of
 * lanes is unsupported.
 */
typedef struct {
    /**
     * 0 signed integer, 1 unsigned integer, 2 IEEE 754 float, 4 bfloat.
     */
    uint8_t code;
    /**
     * The bits of an element.
     */
    uint8_t bits;
    /**
     * 1.
     */
    uint16_t lanes;
} rf_dtype;

/**
 * How the contributions of the ranks become one value. Integer sums and products wrap; 16-bit floats are combined in 32
 * bits and rounded once each time; the smallest and the largest of anything and a NaN is a NaN. 9 to 255 are reserved.
 */
typedef int32_t rf_op;

/**
 * One tensor of a batch, which is input and output.
 */
typedef struct {
    /**
     * Its first element.
     */
    void *data;
    /**
     * Its elements.
     */
    uint64_t count;
    /**
     * Their type.
     */
    rf_dtype dtype;
    /**
     * 0.
     */
    uint32_t reserved;
} rf_tensor;

/**
 * Is told that an operation is complete, by what status and with what error, which lives until it returns; where the library is older
 * than the program, it ends where its `size` says. Called once, on a thread of the library, or on the caller's where the operation is
 * complete already. Not to block, and to call nothing of this library but rf_request_test, rf_request_release and rf_comm_abort: every
 * operation of the process waits for it.
 */
typedef void (*rf_complete_fn)(void *context, rf_status status, const rf_error *error);

/**
 * Combines values: into[i] = left[i] op right[i] for each of `count`. `into` is `left` or `right`; pointers may be unaligned for
 * anything larger than a byte. Called on any thread of the library, several at once; not to block, and not to call this
 * library. Returns 0, or another number where it fails, for which the group fails on every rank with RF_USER_FAILURE.
 */
typedef int32_t (*rf_combine_fn)(void *context, const void *left, const void *right, void *into, uint64_t count);

/**
 * A reduction of the caller's. All ranks use one name, width and commutativity, which are compared, and one function, which cannot
 * be. The function must be associative; where it is not commutative, values are combined in rank order.
 */
typedef struct {
    /**
     * sizeof(rf_reduction_config), set by the caller (RF_REDUCTION_INIT, or rf_reduction_init).
     */
    uint32_t size;
    /**
     * Whether the operands may be exchanged: 1 or 0.
     */
    int32_t commutative;
    /**
     * What ranks compare and errors tell.
     */
    const char *name;
    /**
     * The type of the tensors.
     */
    rf_dtype dtype;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * The bytes of one value, a multiple of an element's, at most 64 KiB; 0: one element. A structure is reduced as tensors of
     * bytes with this width.
     */
    uint64_t width;
    /**
     * The function.
     */
    rf_combine_fn combine;
    /**
     * Handed to it.
     */
    void *context;
    /**
     * Told when the function is not called any more: after the handle is released and all operations with it have ended. On any
     * thread. NULL: nobody is told.
     */
    rf_destroy_fn destroy;
} rf_reduction_config;

/**
 * The sum.
 */
#define RF_SUM 1

/**
 * The product.
 */
#define RF_PROD 2

/**
 * The smallest.
 */
#define RF_MIN 3

/**
 * The largest.
 */
#define RF_MAX 4

/**
 * The sum divided by the number of ranks, of floats.
 */
#define RF_MEAN 5

/**
 * Bitwise and, of integers.
 */
#define RF_BITAND 6

/**
 * Bitwise or, of integers.
 */
#define RF_BITOR 7

/**
 * Bitwise exclusive or, of integers.
 */
#define RF_BITXOR 8

/**
 * The reduction of the options.
 */
#define RF_CUSTOM 256

/**
 * As the communicator has it.
 */
#define RF_ORDER_UNSAID 0

/**
 * The same bits on every rank, run after run; they may depend on the algorithm.
 */
#define RF_ORDER_DEFAULT 1

/**
 * The bits of a balanced tree over rank order, whatever the algorithm, the transport and the layout.
 */
#define RF_ORDER_FIXED 2

/**
 * As the communicator has it.
 */
#define RF_CHECK_UNSAID 0

/**
 * Strict above 64 KiB where that helps, else normal.
 */
#define RF_CHECK_AUTO 1

/**
 * With the first bytes between every two ranks.
 */
#define RF_CHECK_NORMAL 2

/**
 * Before any payload moves.
 */
#define RF_CHECK_STRICT 3

/**
 * They are refused.
 */
#define RF_NULLS_UNSAID 0

/**
 * A null on any rank is an error on every rank, which names column and rank.
 */
#define RF_NULLS_REJECT 1

/**
 * What is there is combined, as in SQL: a mean is divided by how many ranks have a value, and where none has one the result is null.
 */
#define RF_NULLS_SKIP 2

/**
 * Something is wrong.
 */
#define RF_LEVEL_ERROR 1

/**
 * A group has failed, or something is odd.
 */
#define RF_LEVEL_WARN 2

/**
 * A group has formed.
 */
#define RF_LEVEL_INFO 3

/**
 * Connections and choices.
 */
#define RF_LEVEL_DEBUG 4

/**
 * Everything.
 */
#define RF_LEVEL_TRACE 5

/**
 * Done.
 */
#define RF_OK 0

/**
 * An argument cannot be right. Nothing was sent and nothing has changed.
 */
#define RF_INVALID_ARGUMENT 1

/**
 * The call is sound, but this library, backend or algorithm cannot do it. Nothing was sent.
 */
#define RF_UNSUPPORTED 2

/**
 * The configuration is incomplete or contradicts itself.
 */
#define RF_CONFIGURATION 3

/**
 * The group could not be formed.
 */
#define RF_BOOTSTRAP 4

/**
 * The operating system refused something that is not about a peer.
 */
#define RF_IO 5

/**
 * Ranks asked for different things.
 */
#define RF_MISMATCH 6

/**
 * A peer's process has ended without saying goodbye.
 */
#define RF_PEER_DEAD 7

/**
 * A peer gives no sign of life.
 */
#define RF_UNRESPONSIVE 8

/**
 * A peer cannot be reached by the network.
 */
#define RF_UNREACHABLE 9

/**
 * A peer left the group while others still needed it.
 */
#define RF_CLOSED 10

/**
 * The deadline of the operation passed.
 */
#define RF_DEADLINE 11

/**
 * The group was aborted.
 */
#define RF_ABORTED 12

/**
 * A user's reduction failed.
 */
#define RF_USER_FAILURE 13

/**
 * A peer sent bytes that are no frame of this protocol.
 */
#define RF_PROTOCOL 14

/**
 * Another thread is in a call of this communicator. Nothing was sent.
 */
#define RF_CONCURRENT 15

/**
 * What was asked about is not complete. No error.
 */
#define RF_PENDING 16

/**
 * The library has a fault. Release the handle, and report what stands on the standard error.
 */
#define RF_INTERNAL 17

/**
 * Something that the machine is asked for is not there: a driver, a library, a device. Nothing was sent.
 */
#define RF_UNAVAILABLE 18

/**
 * There is nothing to be done.
 */
#define RF_KIND_NONE 0

/**
 * The call was refused: nothing has changed, and the group is sound. Call it differently.
 */
#define RF_KIND_REFUSED 1

/**
 * No group was formed.
 */
#define RF_KIND_SETUP 2

/**
 * The operating system refused this rank something. The group is sound.
 */
#define RF_KIND_SYSTEM 3

/**
 * The group has failed, and every later call returns the first cause. Form a new one.
 */
#define RF_KIND_FAILED 4

/**
 * The library has a fault.
 */
#define RF_KIND_INTERNAL 5

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the library: 10000 * major + 100 * minor + patch. A program that was built with a header of the same major
 * version, and a minor version that is not larger, works with it; below 1.0.0 one of the same minor version.
 */
uint32_t rf_version(void);

/**
 * The same as a text, such as "0.1.0". Lives for ever.
 */
const char *rf_version_string(void);

/**
 * Whether this library can do something: 1 or 0. What can be asked: "dtype:bf16", "op:mean", "collective:all_to_all",
 * "algorithm:ring", "backend:shm", "key:deadline", and "feature:" with one of "started", "prepared", "batch",
 * "shared_tensors", "custom_reductions", "log", "dlpack", "arrow", "device_tensors".
 *
 * What the caller sees to:
 * `what` is NULL or ends with a zero.
 */
int32_t rf_supports(const char *what);

/**
 * The name of a status in lower case, such as "peer dead"; "unknown" for a number that is none. Lives for ever.
 */
const char *rf_status_name(rf_status status);

/**
 * Makes an rf_error ready to be passed. `size` is the caller's sizeof(rf_error); RF_INVALID_ARGUMENT where that cannot be.
 *
 * What the caller sees to:
 * `error` is NULL, which is refused, or has room for `size` bytes.
 */
rf_status rf_error_init(rf_error *error,
                        uint32_t size);

/**
 * Makes an rf_config ready to be filled in. `size` is the caller's sizeof(rf_config); RF_INVALID_ARGUMENT where that cannot be.
 *
 * What the caller sees to:
 * `config` is NULL, which is refused, or has room for `size` bytes.
 */
rf_status rf_config_init(rf_config *config,
                         uint32_t size);

/**
 * What a configuration comes to for a key, as text, "" where nothing is set: as much as there is room for, and a zero. `*length`,
 * where that is not NULL, becomes how many bytes the whole takes with its zero.
 *
 * What the caller sees to:
 * `config` is NULL or initialised; `key` ends with a zero; `room` is NULL or has room for `capacity` bytes; `length` is NULL or
 * can be written; `error` is NULL or an initialised rf_error.
 */
rf_status rf_config_show(const rf_config *config,
                         const char *key,
                         char *room,
                         uint64_t capacity,
                         uint64_t *length,
                         rf_error *error);

/**
 * The keys by their number, from 0: fills in `*info` and returns RF_OK, or RF_INVALID_ARGUMENT behind the last.
 *
 * What the caller sees to:
 * `info` can be written and has its size set.
 */
rf_status rf_key(uint64_t index, rf_key_info *info);

/**
 * The number of keys.
 */
uint64_t rf_key_count(void);

/**
 * Makes an rf_exchange ready to be filled in. `size` is the caller's sizeof(rf_exchange); RF_INVALID_ARGUMENT where that cannot
 * be.
 *
 * What the caller sees to:
 * `exchange` is NULL, which is refused, or has room for `size` bytes.
 */
rf_status rf_exchange_init(rf_exchange *exchange,
                           uint32_t size);

/**
 * Joins the group that the configuration describes; NULL is what the environment says (`ringfold run`, mpirun, torchrun,
 * Slurm, or the names RINGFOLD_*). Blocks until all ranks are there, at most for `init_deadline`. `*out` is written on success
 * only, and released by rf_comm_release.
 *
 * What the caller sees to:
 * `config` is NULL or an initialised rf_config; `out` can be written; `error` is NULL or an initialised rf_error.
 */
rf_status rf_comm_create(const rf_config *config,
                         rf_comm **out,
                         rf_error *error);

/**
 * Joins a group by an all-gather of the caller's: Spark's barrier context, MPI, or anything else. As rf_comm_create
 * otherwise; rank and number of ranks are the exchange's. The exchange is used on this thread and only until this returns, and
 * its `destroy` is called once, whatever comes of it.
 *
 * What the caller sees to:
 * As rf_comm_create; `exchange` is an initialised rf_exchange.
 */
rf_status rf_comm_create_by(const rf_exchange *exchange,
                            const rf_config *config,
                            rf_comm **out,
                            rf_error *error);

/**
 * A group whose ranks are threads of this process: one communicator for each, in rank order, in `out[0]` to
 * `out[world_size - 1]`, each for a thread of its own.
 *
 * What the caller sees to:
 * `out` has room for `world_size` pointers; `error` is NULL or an initialised rf_error.
 */
rf_status rf_comm_local(uint64_t world_size, rf_comm **out, rf_error *error);

/**
 * Leaves the group. Does not block; peers that still need this rank are told. Operations that are under way go on to their
 * ends, and their memory must stay as it is for so long. Where prepared operations have not been released, the group is left
 * when the last of them is. NULL is ignored. In a process that was forked off it only frees memory.
 *
 * What the caller sees to:
 * `comm` is NULL or a communicator that nobody uses any more.
 */
void rf_comm_release(rf_comm *comm);

/**
 * This rank, from 0; -1 for NULL.
 *
 * What the caller sees to:
 * `comm` is NULL or a communicator.
 */
int64_t rf_comm_rank(const rf_comm *comm);

/**
 * The number of ranks; -1 for NULL.
 *
 * What the caller sees to:
 * `comm` is NULL or a communicator.
 */
int64_t rf_comm_size(const rf_comm *comm);

/**
 * The generation of the group: how often it has been formed anew; -1 for NULL.
 *
 * What the caller sees to:
 * `comm` is NULL or a communicator.
 */
int64_t rf_comm_generation(const rf_comm *comm);

/**
 * The number in the world of a rank of this communicator, by which errors name ranks; -1 where there is no such rank.
 *
 * What the caller sees to:
 * `comm` is NULL or a communicator.
 */
int64_t rf_comm_world_rank(const rf_comm *comm, int64_t rank);

/**
 * By what bytes go between the ranks: "shm", "hierarchical" or "tcp"; NULL for NULL. Lives as long as the communicator.
 *
 * What the caller sees to:
 * `comm` is NULL or a communicator.
 */
const char *rf_comm_backend(const rf_comm *comm);

/**
 * The name of the host that a rank is on; NULL where there is no such rank. Lives as long as the communicator.
 *
 * What the caller sees to:
 * `comm` is NULL or a communicator.
 */
const char *rf_comm_host(const rf_comm *comm, int64_t rank);

/**
 * Divides the group: ranks that pass one `color` become a group of their own, numbered by `key` and, where keys are equal, by
 * their number here. A rank that passes a negative color becomes member of none, and gets NULL in `*out`. All ranks call it.
 * The new group has its own order of calls, and can be used by another thread; all groups of a world fail together.
 *
 * What the caller sees to:
 * `comm` is a communicator; `out` can be written; `error` is NULL or an initialised rf_error.
 */
rf_status rf_comm_split(rf_comm *comm,
                        int64_t color,
                        int64_t key,
                        rf_comm **out,
                        rf_error *error);

/**
 * The same group again, with an order of calls of its own: for another thread, or for calls that overlap. All ranks call it.
 *
 * What the caller sees to:
 * As rf_comm_split.
 */
rf_status rf_comm_duplicate(rf_comm *comm,
                            rf_comm **out,
                            rf_error *error);

/**
 * A group of these ranks in this order; NULL in `*out` on ranks that are not among them. All ranks of the communicator call it
 * with the same list.
 *
 * What the caller sees to:
 * As rf_comm_split; `ranks` has `count` numbers.
 */
rf_status rf_comm_group(rf_comm *comm,
                        const uint64_t *ranks,
                        uint64_t count,
                        rf_comm **out,
                        rf_error *error);

/**
 * Stops the group, from any thread: every rank's call in progress and every later one returns RF_ABORTED with this reason,
 * which may be NULL. Does not block.
 *
 * What the caller sees to:
 * `comm` is a communicator that is not released meanwhile; `reason` is NULL or ends with a zero.
 */
rf_status rf_comm_abort(const rf_comm *comm,
                        const char *reason);

/**
 * The first cause of the group's failure, from any thread: RF_OK where there is none that this rank knows of, else the status that
 * calls return from now on, and why. Does not block.
 *
 * What the caller sees to:
 * `comm` is a communicator that is not released meanwhile; `error` is NULL or an initialised rf_error.
 */
rf_status rf_comm_failure(const rf_comm *comm,
                          rf_error *error);

/**
 * The table by which algorithms are chosen, as text; NULL for NULL. Lives as long as the communicator.
 *
 * What the caller sees to:
 * `comm` is NULL or a communicator.
 */
const char *rf_comm_table(const rf_comm *comm);

/**
 * Fills in what the communicator has counted.
 *
 * What the caller sees to:
 * `comm` is a communicator; `counters` can be written and has its size set; `error` is NULL or an initialised rf_error.
 */
rf_status rf_comm_counters(rf_comm *comm, rf_counters *counters, rf_error *error);

/**
 * Makes rf_options ready to be filled in. `size` is the caller's sizeof(rf_options); RF_INVALID_ARGUMENT where that cannot be.
 *
 * What the caller sees to:
 * `options` is NULL, which is refused, or has room for `size` bytes.
 */
rf_status rf_options_init(rf_options *options,
                          uint32_t size);

/**
 * Every rank's `output` becomes the reduction of all ranks' `input`, `count` elements each. In place where both have the same address.
 *
 * What the caller sees to:
 * `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
 * NULL or initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_all_reduce(rf_comm *comm,
                        const void *input,
                        void *output,
                        uint64_t count,
                        rf_dtype element,
                        rf_op op,
                        const rf_options *options,
                        rf_error *error);

/**
 * The root's `output` becomes the reduction of all ranks' `input`, `count` elements each. Other ranks' `output` is not looked at
 * and may be NULL. In place where both have the same address.
 *
 * What the caller sees to:
 * `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
 * NULL or initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_reduce(rf_comm *comm,
                    const void *input,
                    void *output,
                    uint64_t count,
                    rf_dtype element,
                    rf_op op,
                    int64_t root,
                    const rf_options *options,
                    rf_error *error);

/**
 * Rank r's `output` of `count` elements becomes block r of the reduction of all ranks' `input`, which has a block of `count`
 * elements for each rank. In place where `output` is block r of `input`.
 *
 * What the caller sees to:
 * `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
 * NULL or initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_reduce_scatter(rf_comm *comm,
                            const void *input,
                            void *output,
                            uint64_t count,
                            rf_dtype element,
                            rf_op op,
                            const rf_options *options,
                            rf_error *error);

/**
 * As rf_reduce_scatter, with blocks of different lengths: `block_counts` has one for each rank, the same list on all ranks.
 *
 * What the caller sees to:
 * `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
 * NULL or initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_reduce_scatter_v(rf_comm *comm,
                              const void *input,
                              void *output,
                              const uint64_t *block_counts,
                              rf_dtype element,
                              rf_op op,
                              const rf_options *options,
                              rf_error *error);

/**
 * Every rank's `output` becomes the `input`s of all ranks, `count` elements each, one after another. In place where rank r's
 * `input` is block r of its `output`.
 *
 * What the caller sees to:
 * `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
 * NULL or initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_all_gather(rf_comm *comm,
                        const void *input,
                        void *output,
                        uint64_t count,
                        rf_dtype element,
                        const rf_options *options,
                        rf_error *error);

/**
 * As rf_all_gather, with inputs of different lengths: `block_counts` has one for each rank, the same list on all ranks.
 *
 * What the caller sees to:
 * `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
 * NULL or initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_all_gather_v(rf_comm *comm,
                          const void *input,
                          void *output,
                          const uint64_t *block_counts,
                          rf_dtype element,
                          const rf_options *options,
                          rf_error *error);

/**
 * Every rank's `output` becomes the root's `input`, `count` elements. Other ranks' `input` is not looked at and may be NULL. In
 * place where the root's have the same address.
 *
 * What the caller sees to:
 * `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
 * NULL or initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_broadcast(rf_comm *comm,
                       const void *input,
                       void *output,
                       uint64_t count,
                       rf_dtype element,
                       int64_t root,
                       const rf_options *options,
                       rf_error *error);

/**
 * The root's `output` becomes the `input`s of all ranks, `count` elements each, one after another. Other ranks' `output` is not
 * looked at and may be NULL. In place where the root's `input` is its block of `output`.
 *
 * What the caller sees to:
 * `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
 * NULL or initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_gather(rf_comm *comm,
                    const void *input,
                    void *output,
                    uint64_t count,
                    rf_dtype element,
                    int64_t root,
                    const rf_options *options,
                    rf_error *error);

/**
 * As rf_gather, with inputs of different lengths: `block_counts` has one for each rank, the same list on all ranks.
 *
 * What the caller sees to:
 * `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
 * NULL or initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_gather_v(rf_comm *comm,
                      const void *input,
                      void *output,
                      const uint64_t *block_counts,
                      rf_dtype element,
                      int64_t root,
                      const rf_options *options,
                      rf_error *error);

/**
 * Rank r's `output` of `count` elements becomes block r of the root's `input`, which has a block for each rank. Other ranks'
 * `input` is not looked at and may be NULL. In place where the root's `output` is its block of `input`.
 *
 * What the caller sees to:
 * `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
 * NULL or initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_scatter(rf_comm *comm,
                     const void *input,
                     void *output,
                     uint64_t count,
                     rf_dtype element,
                     int64_t root,
                     const rf_options *options,
                     rf_error *error);

/**
 * As rf_scatter, with blocks of different lengths: `block_counts` has one for each rank, the same list on all ranks.
 *
 * What the caller sees to:
 * `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
 * NULL or initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_scatter_v(rf_comm *comm,
                       const void *input,
                       void *output,
                       const uint64_t *block_counts,
                       rf_dtype element,
                       int64_t root,
                       const rf_options *options,
                       rf_error *error);

/**
 * Block s of rank r's `output` becomes block r of rank s's `input`; each has a block of `count` elements for each rank. In place
 * where both have the same address.
 *
 * What the caller sees to:
 * `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
 * NULL or initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_all_to_all(rf_comm *comm,
                        const void *input,
                        void *output,
                        uint64_t count,
                        rf_dtype element,
                        const rf_options *options,
                        rf_error *error);

/**
 * As rf_all_to_all, with blocks of different lengths: `send_counts[s]` elements go to rank s, `receive_counts[s]` come from it. Not
 * in place.
 *
 * What the caller sees to:
 * `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
 * NULL or initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_all_to_all_v(rf_comm *comm,
                          const void *input,
                          const uint64_t *send_counts,
                          void *output,
                          const uint64_t *receive_counts,
                          rf_dtype element,
                          const rf_options *options,
                          rf_error *error);

/**
 * Sends `count` elements to a rank, which receives them by rf_recv. Messages between two ranks arrive in the order of their sending.
 * Blocks until the bytes have left this rank's memory.
 *
 * What the caller sees to:
 * `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
 * NULL or initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_send(rf_comm *comm,
                  const void *data,
                  uint64_t count,
                  rf_dtype element,
                  int64_t to,
                  const rf_options *options,
                  rf_error *error);

/**
 * Receives what a rank has sent by rf_send. Count and type are those of the message.
 *
 * What the caller sees to:
 * `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
 * NULL or initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_recv(rf_comm *comm,
                  void *data,
                  uint64_t count,
                  rf_dtype element,
                  int64_t from,
                  const rf_options *options,
                  rf_error *error);

/**
 * Sends to one rank and receives from another, or the same, at once, so that rings and pairs can swap without a deadlock.
 *
 * What the caller sees to:
 * `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
 * NULL or initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_send_recv(rf_comm *comm,
                       const void *input,
                       uint64_t input_count,
                       int64_t to,
                       void *output,
                       uint64_t output_count,
                       int64_t from,
                       rf_dtype element,
                       const rf_options *options,
                       rf_error *error);

/**
 * Returns once every rank has called it.
 *
 * What the caller sees to:
 * `comm` is a communicator; `options` is NULL or initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_barrier(rf_comm *comm, const rf_options *options, rf_error *error);

/**
 * All-reduces many tensors in place, of any types and lengths, as one operation for each type: for lists of gradients. The same
 * list of types and counts on every rank. The tensors lie apart. It can be started, and not prepared.
 * What the caller sees to:
 * `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
 * NULL or initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_all_reduce_batch(rf_comm *comm,
                              const rf_tensor *tensors,
                              uint64_t count,
                              rf_op op,
                              const rf_options *options,
                              rf_error *error);

/**
 * Every rank's `output` becomes the reduction of all ranks' `input`, which have as many elements. In place where both are one tensor:
 * the same pointer, or another structure that describes the same.
 *
 * Of all functions that end in _dlpack: elements count in row-major order, whatever the shape. Strided tensors need the option
 * `pack`. Tensors are borrowed: they stay their owner's, and no deleter is called. Those with the flag of a read-only one, and
 * those whose elements share memory, can be inputs only.
 *
 * What the caller sees to:
 * `comm` is a communicator; tensors are NULL or structures as DLPack's specification demands, whose memory is there, initialised
 * where it is read, and used by nobody else meanwhile: until the call returns, of a started one until it is complete, of a prepared
 * one until that is released. The structures themselves are not needed any longer than the call takes. `options` is NULL or
 * initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_all_reduce_dlpack(rf_comm *comm,
                               const struct DLManagedTensorVersioned *input,
                               const struct DLManagedTensorVersioned *output,
                               rf_op op,
                               const rf_options *options,
                               rf_error *error);

/**
 * The root's `output` becomes the reduction of all ranks' `input`, which have as many elements. Other ranks' `output` is not looked
 * at and may be NULL. In place as in rf_all_reduce_dlpack.
 *
 * What the caller sees to:
 * As rf_all_reduce_dlpack.
 */
rf_status rf_reduce_dlpack(rf_comm *comm,
                           const struct DLManagedTensorVersioned *input,
                           const struct DLManagedTensorVersioned *output,
                           rf_op op,
                           int64_t root,
                           const rf_options *options,
                           rf_error *error);

/**
 * Rank r's `output` becomes block r of the reduction of all ranks' `input`, which has a block of that length for each rank. In place
 * where `output` is block r of `input`, both dense, or where both are one tensor, of which block r is written.
 *
 * What the caller sees to:
 * As rf_all_reduce_dlpack.
 */
rf_status rf_reduce_scatter_dlpack(rf_comm *comm,
                                   const struct DLManagedTensorVersioned *input,
                                   const struct DLManagedTensorVersioned *output,
                                   rf_op op,
                                   const rf_options *options,
                                   rf_error *error);

/**
 * Every rank's `output` becomes the `input`s of all ranks, which have one length, one after another. In place where rank r's `input`
 * is block r of its `output`, both dense, or where both are one tensor, whose block r is the input.
 *
 * What the caller sees to:
 * As rf_all_reduce_dlpack.
 */
rf_status rf_all_gather_dlpack(rf_comm *comm,
                               const struct DLManagedTensorVersioned *input,
                               const struct DLManagedTensorVersioned *output,
                               const rf_options *options,
                               rf_error *error);

/**
 * Every rank's `output` becomes the root's `input`. Other ranks' `input` is not looked at and may be NULL. In place as in
 * rf_all_reduce_dlpack.
 *
 * What the caller sees to:
 * As rf_all_reduce_dlpack.
 */
rf_status rf_broadcast_dlpack(rf_comm *comm,
                              const struct DLManagedTensorVersioned *input,
                              const struct DLManagedTensorVersioned *output,
                              int64_t root,
                              const rf_options *options,
                              rf_error *error);

/**
 * The root's `output` becomes the `input`s of all ranks, which have one length, one after another. Other ranks' `output` is not
 * looked at and may be NULL. In place on the root as in rf_all_gather_dlpack.
 *
 * What the caller sees to:
 * As rf_all_reduce_dlpack.
 */
rf_status rf_gather_dlpack(rf_comm *comm,
                           const struct DLManagedTensorVersioned *input,
                           const struct DLManagedTensorVersioned *output,
                           int64_t root,
                           const rf_options *options,
                           rf_error *error);

/**
 * Rank r's `output` becomes block r of the root's `input`, which has a block of that length for each rank. Other ranks' `input` is
 * not looked at and may be NULL. In place on the root as in rf_reduce_scatter_dlpack.
 *
 * What the caller sees to:
 * As rf_all_reduce_dlpack.
 */
rf_status rf_scatter_dlpack(rf_comm *comm,
                            const struct DLManagedTensorVersioned *input,
                            const struct DLManagedTensorVersioned *output,
                            int64_t root,
                            const rf_options *options,
                            rf_error *error);

/**
 * Block s of rank r's `output` becomes block r of rank s's `input`; both have a block for each rank, all of one length. In place as in
 * rf_all_reduce_dlpack.
 *
 * What the caller sees to:
 * As rf_all_reduce_dlpack.
 */
rf_status rf_all_to_all_dlpack(rf_comm *comm,
                               const struct DLManagedTensorVersioned *input,
                               const struct DLManagedTensorVersioned *output,
                               const rf_options *options,
                               rf_error *error);

/**
 * Sends a tensor to a rank, which receives as many elements of its type by rf_recv or rf_recv_dlpack. See rf_send.
 *
 * What the caller sees to:
 * As rf_all_reduce_dlpack.
 */
rf_status rf_send_dlpack(rf_comm *comm,
                         const struct DLManagedTensorVersioned *tensor,
                         int64_t to,
                         const rf_options *options,
                         rf_error *error);

/**
 * Receives what a rank has sent by rf_send or rf_send_dlpack. Number and type of the elements are those of the message.
 *
 * What the caller sees to:
 * As rf_all_reduce_dlpack.
 */
rf_status rf_recv_dlpack(rf_comm *comm,
                         const struct DLManagedTensorVersioned *tensor,
                         int64_t from,
                         const rf_options *options,
                         rf_error *error);

/**
 * Every rank's `out` becomes the reduction of all ranks' `input`, element by element: one type and length on all ranks. A struct at
 * the top is a record batch, reduced column by column, whose names stand in errors; anything else is an array. Numbers of all
 * types, in arrays, lists of one length, lists of any length that are alike on all ranks, structs; points in time have a min and a
 * max.
 *
 * Of all functions that end in _arrow or _arrow_stream:
 * - `input` is moved on success only: then its `release` is NULL, and its callback is called when nobody needs the memory any more,
 *   on any thread, maybe much later. After an error it is the caller's and as it was. `schema` is read and stays the caller's.
 * - `out` and `out_schema` are written on success only, without a look at what was there; the caller releases them. `out_schema` may
 *   be NULL. `out` may be `input`, which is moved before.
 * - Arrays are read where they are. What a rank gets back of its own, in verbs that move tables, shares memory with what it
 *   passed.
 * - Ranks compare what they bring before anything else happens. Where that does not go together, or one rank passes what cannot be
 *   read, every rank gets the same error, of kind RF_KIND_REFUSED also where it is RF_MISMATCH, and the group goes on. What is
 *   wrong with communicator or options is told to nobody else.
 * - `options.nulls` says what becomes of nulls in reductions. Calls are neither started nor prepared.
 *
 * What the caller sees to:
 * `comm` is a communicator; structures are NULL or as Arrow's C data and stream interfaces demand, and are left alone by others until
 * the call returns; nobody writes to memory that was moved; release callbacks can be called on any thread. `options` is NULL or
 * initialised; `error` is NULL or an initialised rf_error.
 */
rf_status rf_all_reduce_arrow(rf_comm *comm,
                              const struct ArrowSchema *schema,
                              struct ArrowArray *input,
                              struct ArrowSchema *out_schema,
                              struct ArrowArray *out,
                              rf_op op,
                              const rf_options *options,
                              rf_error *error);

/**
 * The root's `out` becomes the reduction of all ranks' `input`, as in rf_all_reduce_arrow. Other ranks' `out` and `out_schema` may be
 * NULL, and are set to released otherwise.
 *
 * What the caller sees to:
 * As rf_all_reduce_arrow.
 */
rf_status rf_reduce_arrow(rf_comm *comm,
                          const struct ArrowSchema *schema,
                          struct ArrowArray *input,
                          struct ArrowSchema *out_schema,
                          struct ArrowArray *out,
                          rf_op op,
                          int64_t root,
                          const rf_options *options,
                          rf_error *error);

/**
 * Rank r's `out` becomes block r of the rows of the reduction of all ranks' `input`. Blocks differ by one row at most; the first ones
 * are the longer. Not of lists of any length.
 *
 * What the caller sees to:
 * As rf_all_reduce_arrow.
 */
rf_status rf_reduce_scatter_arrow(rf_comm *comm,
                                  const struct ArrowSchema *schema,
                                  struct ArrowArray *input,
                                  struct ArrowSchema *out_schema,
                                  struct ArrowArray *out,
                                  rf_op op,
                                  const rf_options *options,
                                  rf_error *error);

/**
 * Every rank's `out` becomes the root's `input`, of any type that Arrow's IPC format has. Other ranks' `schema` and `input` are not
 * looked at and may be NULL.
 *
 * What the caller sees to:
 * As rf_all_reduce_arrow.
 */
rf_status rf_broadcast_arrow(rf_comm *comm,
                             const struct ArrowSchema *schema,
                             struct ArrowArray *input,
                             struct ArrowSchema *out_schema,
                             struct ArrowArray *out,
                             int64_t root,
                             const rf_options *options,
                             rf_error *error);

/**
 * Sends each row of a record batch to the rank that its key belongs to; `out` becomes the rows that belong to this one, rank 0's first,
 * each rank's in their order. `key` is the name of a column: of numbers, strings, bytes, times, or dictionaries of these. Equal keys
 * meet on one rank, and so do nulls; rows are divided as by Spark's hash partitioning. One schema on all ranks; lengths are each
 * rank's own.
 *
 * What the caller sees to:
 * As rf_all_reduce_arrow.
 */
rf_status rf_shuffle_arrow(rf_comm *comm,
                           const struct ArrowSchema *schema,
                           struct ArrowArray *input,
                           struct ArrowSchema *out_schema,
                           struct ArrowArray *out,
                           const char *key,
                           const rf_options *options,
                           rf_error *error);

/**
 * `out` becomes a stream of all ranks' `input`s: one array for each rank, in rank order. One schema on all ranks; lengths are each
 * rank's own.
 *
 * What the caller sees to:
 * As rf_all_reduce_arrow.
 */
rf_status rf_all_gather_arrow(rf_comm *comm,
                              const struct ArrowSchema *schema,
                              struct ArrowArray *input,
                              struct ArrowArrayStream *out,
                              const rf_options *options,
                              rf_error *error);

/**
 * The root's `out` becomes a stream of all ranks' `input`s, as in rf_all_gather_arrow. Other ranks' `out` may be NULL, and is set to
 * released otherwise.
 *
 * What the caller sees to:
 * As rf_all_reduce_arrow.
 */
rf_status rf_gather_arrow(rf_comm *comm,
                          const struct ArrowSchema *schema,
                          struct ArrowArray *input,
                          struct ArrowArrayStream *out,
                          int64_t root,
                          const rf_options *options,
                          rf_error *error);

/**
 * Array r of the stream `input` goes to rank r; array r of the stream `out` came from rank r. One schema on all ranks, and as many
 * arrays as there are ranks; empty ones have no rows.
 *
 * A stream can be read only once. So after an error `input` is a stream of the library's, which gives once more what was read,
 * and then goes on with what is left of the caller's, its error included; where the stream could not say its schema it
 * is as it was. It is read on the calling thread, which takes as long as its producer does.
 *
 * What the caller sees to:
 * As rf_all_reduce_arrow.
 */
rf_status rf_all_to_all_arrow(rf_comm *comm,
                              struct ArrowArrayStream *input,
                              struct ArrowArrayStream *out,
                              const rf_options *options,
                              rf_error *error);

/**
 * rf_all_reduce_arrow of an array or a record batch in chunks, which may be others on each rank, with one length in all. Several are
 * copied into one first. After an error `input` is as rf_all_to_all_arrow says.
 *
 * What the caller sees to:
 * As rf_all_reduce_arrow.
 */
rf_status rf_all_reduce_arrow_stream(rf_comm *comm,
                                     struct ArrowArrayStream *input,
                                     struct ArrowSchema *out_schema,
                                     struct ArrowArray *out,
                                     rf_op op,
                                     const rf_options *options,
                                     rf_error *error);

/**
 * RF_PENDING while the operation is under way, else what became of it. Does not block.
 *
 * What the caller sees to:
 * `request` is a request that is not released meanwhile; `error` is NULL or an initialised rf_error.
 */
rf_status rf_request_test(rf_request *request, rf_error *error);

/**
 * Blocks until the operation is complete or `timeout_ns` have passed (negative: however long it takes, which its own deadline
 * bounds); returns RF_PENDING then, and nothing happens to the operation, else what became of it. Can be asked again.
 *
 * What the caller sees to:
 * As rf_request_test.
 */
rf_status rf_request_wait(rf_request *request,
                          int64_t timeout_ns,
                          rf_error *error);

/**
 * A descriptor that becomes readable, and stays so, when the operation is complete: for poll, epoll and event loops. It is the
 * request's, lives as long as that, and is not to be read, written or closed.
 *
 * What the caller sees to:
 * As rf_request_test; `descriptor` can be written.
 */
rf_status rf_request_descriptor(rf_request *request,
                                int32_t *descriptor,
                                rf_error *error);

/**
 * Has a function told when the operation is complete; at once, on this thread, where it is already. One function at a time. Also
 * told where the request is released before. `destroy`, where it is not NULL, is called behind it, and where this call fails.
 *
 * What the caller sees to:
 * As rf_request_test; `complete` can be called with `context` on any thread.
 */
rf_status rf_request_on_complete(rf_request *request,
                                 rf_complete_fn complete,
                                 void *context,
                                 rf_destroy_fn destroy,
                                 rf_error *error);

/**
 * Releases the handle. An operation that is under way goes on, as the other ranks expect, and its memory must stay until it is
 * complete: one rank cannot cancel a collective. NULL is ignored.
 *
 * What the caller sees to:
 * `request` is NULL or a request that nobody uses any more.
 */
void rf_request_release(rf_request *request);

/**
 * Runs it once; returns when it is complete.
 *
 * What the caller sees to:
 * `prepared` is a prepared operation that no other thread uses meanwhile; its memory is there; `error` is NULL or an initialised
 * rf_error.
 */
rf_status rf_prepared_run(rf_prepared *prepared,
                          rf_error *error);

/**
 * Starts it once; returns at once. Wait for its end by rf_prepared_wait before the next run.
 *
 * What the caller sees to:
 * As rf_prepared_run, and the memory is left to it until it is complete.
 */
rf_status rf_prepared_start(rf_prepared *prepared, rf_error *error);

/**
 * Blocks until the run that was started is complete or `timeout_ns` have passed (negative: however long it takes); returns
 * RF_PENDING then, else what became of it. RF_OK where none was started.
 *
 * What the caller sees to:
 * As rf_prepared_run.
 */
rf_status rf_prepared_wait(rf_prepared *prepared,
                           int64_t timeout_ns,
                           rf_error *error);

/**
 * Releases it. A run that is under way goes on, and the memory must stay until it is complete. NULL is ignored.
 *
 * What the caller sees to:
 * `prepared` is NULL or a prepared operation that nobody uses any more.
 */
void rf_prepared_release(rf_prepared *prepared);

/**
 * Zeroed memory of so many bytes that the other ranks of the host can see, page-aligned unless there are none; ordinary memory where the group shares
 * none (rf_memory_is_shared). `*data` and `*out` are written on success only. Asked for too much, it is refused and nobody is
 * killed.
 *
 * What the caller sees to:
 * `comm` is a communicator; `data` and `out` can be written; `error` is NULL or an initialised rf_error.
 */
rf_status rf_allocate(rf_comm *comm,
                      uint64_t bytes,
                      void **data,
                      rf_memory **out,
                      rf_error *error);

/**
 * Makes memory of the caller's visible to the other ranks of the host, in its place and with its contents, until it is released.
 * It has to be whole pages of 4096 bytes, private and of no file. Nothing changes where the group shares no memory.
 *
 * What the caller sees to:
 * `comm` is a communicator; `data` is `bytes` of initialised memory, which is not unmapped, and which nobody touches while this
 * runs; `out` can be written; `error` is NULL or an initialised rf_error.
 */
rf_status rf_register(rf_comm *comm,
                      void *data,
                      uint64_t bytes,
                      rf_memory **out,
                      rf_error *error);

/**
 * Whether the other ranks of the host can see it: 1 or 0. Not where the group shares no memory, and not after a failure for which it
 * was taken out of sharing.
 *
 * What the caller sees to:
 * `memory` is NULL or a memory.
 */
int32_t rf_memory_is_shared(const rf_memory *memory);

/**
 * Gives allocated memory back, and makes registered memory ordinary again, with its contents. RF_IO where the system refuses that
 * for registered memory: then nothing has changed, and the handle can be released again. NULL is ignored.
 *
 * What the caller sees to:
 * `memory` is NULL or a memory that no operation uses any more; `error` is NULL or an initialised rf_error.
 */
rf_status rf_memory_release(rf_memory *memory,
                            rf_error *error);

/**
 * Makes an rf_reduction_config ready to be filled in. `size` is the caller's sizeof(rf_reduction_config); RF_INVALID_ARGUMENT where
 * that cannot be.
 *
 * What the caller sees to:
 * `config` is NULL, which is refused, or has room for `size` bytes.
 */
rf_status rf_reduction_init(rf_reduction_config *config,
                            uint32_t size);

/**
 * Makes a reduction. `*out` is written on success only; where it fails, `destroy` is called all the same, unless `size` is wrong.
 *
 * What the caller sees to:
 * `config` is initialised, and its function can be called as described; `out` can be written; `error` is NULL or an initialised
 * rf_error.
 */
rf_status rf_reduction_create(const rf_reduction_config *config,
                              rf_reduction **out,
                              rf_error *error);

/**
 * Releases a reduction. Operations that have it go on. NULL is ignored.
 *
 * What the caller sees to:
 * `reduction` is NULL or a reduction that nobody passes any more.
 */
void rf_reduction_release(rf_reduction *reduction);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* RINGFOLD_H */

/* A structure that is ready to be filled in: rf_options options = RF_OPTIONS_INIT; Where there is no compiler for C, a function does
 * the same: rf_options_init(options, size of the structure as the binding knows it). */
#if defined(__cplusplus)
#define RF_STRUCT_(name, ...) (name{__VA_ARGS__})
#else
#define RF_STRUCT_(name, ...) {__VA_ARGS__}
#endif
#define RF_ERROR_INIT RF_STRUCT_(rf_error, (uint32_t)sizeof(rf_error), RF_OK, RF_KIND_NONE, 0, -1, -1, -1, -1, {0}, {0}, {0})
#define RF_CONFIG_INIT \
    RF_STRUCT_(rf_config, (uint32_t)sizeof(rf_config), 0, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
#define RF_OPTIONS_INIT RF_STRUCT_(rf_options, (uint32_t)sizeof(rf_options), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
#define RF_EXCHANGE_INIT RF_STRUCT_(rf_exchange, (uint32_t)sizeof(rf_exchange), 0, -1, -1, 0, 0, 0)
#define RF_REDUCTION_INIT \
    RF_STRUCT_(rf_reduction_config, (uint32_t)sizeof(rf_reduction_config), 0, 0, {0, 0, 0}, 0, 0, 0, 0, 0)
#define RF_KEY_INIT RF_STRUCT_(rf_key_info, (uint32_t)sizeof(rf_key_info), 0, 0, 0, 0, 0)
#define RF_COUNTERS_INIT RF_STRUCT_(rf_counters, (uint32_t)sizeof(rf_counters), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

/* The element types. */
#if defined(__cplusplus)
#define RF_DTYPE_(code, bits) (rf_dtype{code, bits, 1})
#else
#define RF_DTYPE_(code, bits) ((rf_dtype){code, bits, 1})
#endif
#define RF_I8 RF_DTYPE_(0, 8)
#define RF_I16 RF_DTYPE_(0, 16)
#define RF_I32 RF_DTYPE_(0, 32)
#define RF_I64 RF_DTYPE_(0, 64)
#define RF_U8 RF_DTYPE_(1, 8)
#define RF_U16 RF_DTYPE_(1, 16)
#define RF_U32 RF_DTYPE_(1, 32)
#define RF_U64 RF_DTYPE_(1, 64)
#define RF_F16 RF_DTYPE_(2, 16)
#define RF_F32 RF_DTYPE_(2, 32)
#define RF_F64 RF_DTYPE_(2, 64)
#define RF_BF16 RF_DTYPE_(4, 16)
