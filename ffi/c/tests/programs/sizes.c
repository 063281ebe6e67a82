/* Structures of programs that were built with other headers: smaller, larger, and such as no header has. Each has exactly as many
 * bytes as it says, once before a page that must not be touched and once on the heap, where the sanitizer and Valgrind look on. Any
 * number of ranks. */
#define _DEFAULT_SOURCE
#include "check.h"
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

/* As the library has them. The first release's sizes are written out: they never change. */
enum { LARGEST = 4096, ERROR = 1360, CONFIG = 96, KEY = 40, EXCHANGE = 48, COUNTERS = 96, OPTIONS = 64, REDUCTION = 56 };

static rf_comm *comm;
static rf_key_info key_1; /* what rf_key says of key 1 */
static int destroyed;
static void destroy(void *context) { destroyed += context == &destroyed; }

/* `size` bytes of memory, and not one more. */
struct room {
    uint8_t *at;
    size_t size;
    uint8_t *pages; /* NULL: on the heap */
    size_t mapped;
};

static struct room take(size_t size, int guarded) {
    struct room room = {NULL, size, NULL, 0};
    if (!guarded) {
        room.at = (uint8_t *)malloc(size);
        HOLDS(room.at != NULL);
        return room;
    }
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (size + page - 1) / page * page;
    room.mapped = pages + page;
    void *mapped = mmap(NULL, room.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    HOLDS(mapped != MAP_FAILED);
    room.pages = (uint8_t *)mapped;
    HOLDS(mprotect(room.pages + pages, page, PROT_NONE) == 0);
    room.at = room.pages + pages - size;
    return room;
}

static void give_back(struct room room) {
    if (room.pages != NULL)
        munmap(room.pages, room.mapped);
    else
        free(room.at);
}

/* The calls that take a structure. */
typedef rf_status use(void *structure);

static rf_status with_options(void *structure) {
    int32_t value = 1;
    rf_status status = rf_all_reduce(comm, &value, &value, 1, RF_I32, RF_SUM, (rf_options *)structure, &error);
    HOLDS(value == (status == RF_OK ? rf_comm_size(comm) : 1));
    return status;
}

static rf_status with_config(void *structure) {
    char shown[16];
    rf_status status = rf_config_show((rf_config *)structure, "deadline", shown, sizeof shown, NULL, &error);
    HOLDS(status != RF_OK || strcmp(shown, "7s") == 0);
    rf_comm *alone = NULL;
    HOLDS(rf_comm_create((rf_config *)structure, &alone, &error) == status && (alone != NULL) == (status == RF_OK));
    rf_comm_release(alone);
    return status;
}

static int32_t gather(void *context, const void *message, uint64_t length, int64_t timeout_ns, rf_sink_fn answer, void *sink) {
    (void)context, (void)timeout_ns;
    return answer(sink, 0, message, length);
}

static rf_status with_exchange(void *structure) {
    rf_config config = RF_CONFIG_INIT;
    config.flags = RF_CONFIG_BARE;
    rf_comm *alone = NULL;
    rf_status status = rf_comm_create_by((rf_exchange *)structure, &config, &alone, &error);
    HOLDS((alone != NULL) == (status == RF_OK));
    rf_comm_release(alone);
    return status;
}

static int32_t keep(void *context, const void *left, const void *right, void *into, uint64_t count) {
    (void)context, (void)left, (void)right, (void)into, (void)count;
    return 0;
}

static rf_status with_reduction(void *structure) {
    rf_reduction *reduction = NULL;
    rf_status status = rf_reduction_create((rf_reduction_config *)structure, &reduction, &error);
    HOLDS((reduction != NULL) == (status == RF_OK));
    rf_reduction_release(reduction);
    return status;
}

static uint32_t say(uint8_t *at, uint32_t size) {
    memcpy(at, &size, sizeof size);
    return size;
}

/* A structure that is read: `known` is one of this header's that works, `destroys` how often its context comes back with each use. */
static void read_alike(const void *known, size_t now, size_t first, use *with, int destroys) {
    for (int guarded = 0; guarded < 2; guarded++) {
        const size_t works[] = {first, now, now + 8, now + 64, LARGEST};
        for (size_t i = 0; i < sizeof works / sizeof *works; i++) {
            struct room room = take(works[i], guarded), was = take(works[i], guarded);
            memset(room.at, 0, room.size);
            memcpy(room.at, known, works[i] < now ? works[i] : now);
            say(room.at, (uint32_t)works[i]);
            memcpy(was.at, room.at, room.size);
            destroyed = 0;
            WELL(with(room.at));
            HOLDS(destroyed == destroys && memcmp(was.at, room.at, room.size) == 0);

            /* Something behind what this version knows, in its first byte, in its last, or in one between. */
            const size_t asks[] = {now, now + (works[i] - now) / 2, works[i] - 1};
            for (int j = 0; j < 3 && works[i] > now; j++) {
                room.at[asks[j]] = was.at[asks[j]] = 1;
                destroyed = 0;
                char words[32];
                snprintf(words, sizeof words, "something at byte %zu,", asks[j]);
                REFUSED(with(room.at), RF_UNSUPPORTED, words);
                HOLDS(error.kind == RF_KIND_REFUSED && strstr(error.text, "newer") != NULL);
                HOLDS(destroyed == destroys && memcmp(was.at, room.at, room.size) == 0);
                room.at[asks[j]] = was.at[asks[j]] = 0;
            }
            give_back(room);
            give_back(was);
        }
        const uint32_t absurd[] = {0, 4, 8, (uint32_t)first - 8, (uint32_t)first - 1, LARGEST + 1, 1u << 20, UINT32_MAX};
        for (size_t i = 0; i < sizeof absurd / sizeof *absurd; i++) {
            /* Of what says that it is none, no more than that is looked at. */
            struct room room = take(4, guarded);
            say(room.at, absurd[i]);
            destroyed = 0;
            char words[32];
            snprintf(words, sizeof words, "size is %u,", absurd[i]);
            REFUSED(with(room.at), RF_INVALID_ARGUMENT, words);
            HOLDS(destroyed == 0);
            give_back(room);
        }
    }
    int32_t value = 1;
    WELL(rf_all_reduce(comm, &value, &value, 1, RF_I32, RF_SUM, NULL, &error));
    HOLDS(value == rf_comm_size(comm));
}

/* A structure that is written: by `with`, as `known` has it. `counts`: whether it tells the same each time. */
static void written_alike(const void *known, size_t now, size_t first, use *with, int counts) {
    for (int guarded = 0; guarded < 2; guarded++) {
        const size_t works[] = {first, now, now + 8, now + 64, LARGEST};
        for (size_t i = 0; i < sizeof works / sizeof *works; i++) {
            struct room room = take(works[i], guarded);
            memset(room.at, 0x5a, room.size);
            say(room.at, (uint32_t)works[i]);
            WELL(with(room.at));
            uint32_t size = 0;
            memcpy(&size, room.at, sizeof size);
            HOLDS(size == works[i]);
            const size_t both = works[i] < now ? works[i] : now;
            if (counts)
                HOLDS(memcmp(room.at + 4, (const uint8_t *)known + 4, both - 4) == 0);
            for (size_t at = now; at < works[i]; at++)
                HOLDS(room.at[at] == 0);
            give_back(room);
        }
        const uint32_t absurd[] = {0, 4, 8, (uint32_t)first - 8, (uint32_t)first - 1, LARGEST + 1, 1u << 20, UINT32_MAX};
        for (size_t i = 0; i < sizeof absurd / sizeof *absurd; i++) {
            struct room room = take(4, guarded);
            say(room.at, absurd[i]);
            HOLDS(with(room.at) == RF_INVALID_ARGUMENT);
            uint32_t size = 0;
            memcpy(&size, room.at, sizeof size);
            HOLDS(size == absurd[i]);
            give_back(room);
        }
    }
}

static rf_status to_counters(void *structure) { return rf_comm_counters(comm, (rf_counters *)structure, &error); }
static rf_status to_key(void *structure) { return rf_key(1, (rf_key_info *)structure); }
static rf_status to_error(void *structure) {
    return rf_config_show(NULL, "deadline", NULL, 0, NULL, (rf_error *)structure);
}
/* The same of a call that fails, and tells why. */
static rf_status to_failed_error(void *structure) {
    rf_status status = rf_config_show(NULL, "nonsense", NULL, 0, NULL, (rf_error *)structure);
    return status == RF_CONFIGURATION ? RF_OK : status;
}

/* The functions that make a structure ready, for programs that know it with `size` bytes. */
#define INITIALISED(name, macro, first)                                                        \
    do {                                                                                       \
        const name wanted_ = macro;                                                            \
        const size_t works_[] = {first, sizeof(name), sizeof(name) + 8, LARGEST};             \
        for (int i_ = 0; i_ < 8; i_++) {                                                      \
            struct room room_ = take(works_[i_ / 2], i_ % 2);                                 \
            memset(room_.at, 0x5a, room_.size);                                               \
            uint32_t size_ = 0;                                                               \
            WELL(INIT_##name((name *)(void *)room_.at, (uint32_t)room_.size));                \
            memcpy(&size_, room_.at, sizeof size_);                                           \
            HOLDS(size_ == room_.size);                                                       \
            for (size_t at_ = 4; at_ < room_.size; at_++)                                     \
                HOLDS(room_.at[at_] == (at_ < sizeof(name) ? ((const uint8_t *)&wanted_)[at_] : 0)); \
            give_back(room_);                                                                 \
        }                                                                                     \
        name untouched_ = macro;                                                              \
        HOLDS(INIT_##name(NULL, sizeof(name)) == RF_INVALID_ARGUMENT);                        \
        HOLDS(INIT_##name(&untouched_, (first) - 1) == RF_INVALID_ARGUMENT);                  \
        HOLDS(INIT_##name(&untouched_, LARGEST + 1) == RF_INVALID_ARGUMENT);                  \
        HOLDS(memcmp(&untouched_, &wanted_, sizeof wanted_) == 0);                            \
    } while (0)
#define INIT_rf_error rf_error_init
#define INIT_rf_config rf_config_init
#define INIT_rf_exchange rf_exchange_init
#define INIT_rf_options rf_options_init
#define INIT_rf_reduction_config rf_reduction_init

/* All that the first release's options could say is heard, and what they lacked is as if it had not been said. */
static void first_options(void) {
    for (int guarded = 0; guarded < 2; guarded++) {
        struct room room = take(OPTIONS, guarded);
        rf_options *options = (rf_options *)(void *)room.at;
        WELL(rf_options_init(options, OPTIONS));
        options->order = 3;
        REFUSED(with_options(options), RF_INVALID_ARGUMENT, "order");
        options->order = RF_ORDER_FIXED;
        options->deadline_ns = -5;
        REFUSED(with_options(options), RF_INVALID_ARGUMENT, "deadline_ns is -5");
        options->deadline_ns = 30000000000;
        options->algorithm = "rign";
        REFUSED(with_options(options), RF_INVALID_ARGUMENT, "rign");
        options->algorithm = NULL;
        WELL(with_options(options));

        rf_request *request = NULL;
        int64_t value = 2;
        options->request = &request;
        WELL(rf_all_reduce(comm, &value, &value, 1, RF_I64, RF_SUM, options, &error));
        WELL(rf_request_wait(request, -1, &error));
        rf_request_release(request);
        HOLDS(value == 2 * rf_comm_size(comm));

        /* The last of the fields that there were. */
        rf_prepared *prepared = NULL;
        options->request = NULL;
        options->prepared = &prepared;
        value = 3;
        WELL(rf_all_reduce(comm, &value, &value, 1, RF_I64, RF_SUM, options, &error));
        WELL(rf_prepared_run(prepared, &error));
        rf_prepared_release(prepared);
        HOLDS(value == 3 * rf_comm_size(comm));
        give_back(room);
    }
    /* One that ends between two releases' has the first field behind, and that is heard. */
    struct room room = take(offsetof(rf_options, staging), 0);
    rf_options *options = (rf_options *)(void *)room.at;
    WELL(rf_options_init(options, (uint32_t)room.size));
    options->nulls = 99;
    REFUSED(with_options(options), RF_INVALID_ARGUMENT, "policy of nulls");
    options->nulls = RF_NULLS_SKIP;
    WELL(with_options(options));
    give_back(room);
}

int main(void) {
    WELL(rf_comm_create(NULL, &comm, &error));
    rf_options options = RF_OPTIONS_INIT;
    options.deadline_ns = 30000000000;
    options.order = RF_ORDER_FIXED;
    read_alike(&options, sizeof options, OPTIONS, with_options, 0);
    first_options();

    rf_config config = RF_CONFIG_INIT;
    config.flags = RF_CONFIG_BARE;
    config.deadline_ns = 7000000000;
    config.log_context = &destroyed;
    config.log_destroy = destroy;
    read_alike(&config, sizeof config, CONFIG, with_config, 1);

    rf_exchange exchange = RF_EXCHANGE_INIT;
    exchange.rank = 0;
    exchange.world_size = 1;
    exchange.all_gather = gather;
    exchange.context = &destroyed;
    exchange.destroy = destroy;
    read_alike(&exchange, sizeof exchange, EXCHANGE, with_exchange, 1);

    rf_reduction_config reduction = RF_REDUCTION_INIT;
    reduction.name = "keep";
    reduction.dtype = RF_I32;
    reduction.combine = keep;
    reduction.context = &destroyed;
    reduction.destroy = destroy;
    read_alike(&reduction, sizeof reduction, REDUCTION, with_reduction, 1);

    rf_counters counters = RF_COUNTERS_INIT;
    WELL(rf_comm_counters(comm, &counters, &error));
    HOLDS(counters.completed > 0);
    written_alike(&counters, sizeof counters, COUNTERS, to_counters, 0);
    REFUSED(rf_comm_counters(comm, NULL, &error), RF_INVALID_ARGUMENT, "counters is NULL");
    key_1.size = sizeof key_1;
    WELL(rf_key(1, &key_1));
    written_alike(&key_1, sizeof key_1, KEY, to_key, 1);
    /* After a success, the texts begin with a zero and are left alone behind it; after a failure as well. */
    rf_error well;
    memset(&well, 0x5a, sizeof well);
    well.size = sizeof well;
    WELL(to_error(&well));
    HOLDS(well.status == RF_OK && well.peer == -1 && well.text[0] == 0);
    written_alike(&well, sizeof well, ERROR, to_error, 1);
    rf_error failed;
    memset(&failed, 0x5a, sizeof failed);
    failed.size = sizeof failed;
    WELL(to_failed_error(&failed));
    HOLDS(failed.status == RF_CONFIGURATION && strstr(failed.text, "nonsense") != NULL);
    written_alike(&failed, sizeof failed, ERROR, to_failed_error, 1);

    INITIALISED(rf_error, RF_ERROR_INIT, ERROR);
    INITIALISED(rf_config, RF_CONFIG_INIT, CONFIG);
    INITIALISED(rf_exchange, RF_EXCHANGE_INIT, EXCHANGE);
    INITIALISED(rf_options, RF_OPTIONS_INIT, OPTIONS);
    INITIALISED(rf_reduction_config, RF_REDUCTION_INIT, REDUCTION);

    WELL(rf_barrier(comm, NULL, &error));
    rf_comm_release(comm);
    puts("of any size");
    return 0;
}
