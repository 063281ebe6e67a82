/* What cannot be right: each with its status and words, and nothing changed. Any number of ranks. */
#define _DEFAULT_SOURCE
#include "check.h"
#include <sys/mman.h>

static int32_t gather_nothing(void *context, const void *message, uint64_t length, int64_t timeout_ns, rf_sink_fn take,
                              void *sink) {
    (void)message;
    (void)length;
    (void)timeout_ns;
    switch (*(int *)context) {
    case 0: /* fails, and says why */
        take(sink, -1, "the cable is cut", 16);
        return 7;
    case 1: /* forgets everybody */
        return 0;
    case 2: /* answers for a rank that there is not */
        HOLDS(take(sink, 5, "x", 1) == RF_INVALID_ARGUMENT);
        HOLDS(take(sink, -2, "x", 1) == RF_INVALID_ARGUMENT);
        HOLDS(take(NULL, 0, "x", 1) == RF_INVALID_ARGUMENT);
        HOLDS(take(sink, 0, NULL, 9) == RF_INVALID_ARGUMENT);
        return 0;
    case 3: /* answers twice */
        take(sink, 0, message, length);
        HOLDS(take(sink, 0, message, length) == RF_INVALID_ARGUMENT);
        return 0;
    default: /* gives somebody else's message as this rank's */
        take(sink, 0, "not mine", 8);
        return 0;
    }
}

static int destroyed;
static void destroy(void *context) {
    (void)context;
    destroyed++;
}

static int32_t combine(void *context, const void *left, const void *right, void *into, uint64_t count) {
    (void)context, (void)left, (void)right, (void)into, (void)count;
    return 0;
}

static void arguments(rf_comm *comm) {
    const int64_t n = rf_comm_size(comm), r = rf_comm_rank(comm);
    float a[64], b[64];
    for (int i = 0; i < 64; i++)
        a[i] = b[i] = (float)i;
    const uint64_t huge = UINT64_MAX / 2;
    uint64_t counts[64];
    for (int i = 0; i < 64; i++)
        counts[i] = UINT64_MAX / 2;
    rf_dtype odd = {2, 8, 1}, wide = {2, 32, 4}, strange = {9, 32, 1};

    REFUSED(rf_all_reduce(NULL, a, a, 4, RF_F32, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "communicator is NULL");
    REFUSED(rf_all_reduce(comm, NULL, a, 4, RF_F32, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "input is NULL");
    REFUSED(rf_all_reduce(comm, a, NULL, 4, RF_F32, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "output is NULL");
    REFUSED(rf_all_reduce(comm, a, a + 1, 4, RF_F32, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "overlap");
    REFUSED(rf_all_reduce(comm, a, b, huge, RF_F32, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "do not fit");
    REFUSED(rf_all_reduce(comm, a, b, 4, odd, RF_SUM, NULL, &error), RF_UNSUPPORTED, "bits 8");
    REFUSED(rf_all_reduce(comm, a, b, 4, wide, RF_SUM, NULL, &error), RF_UNSUPPORTED, "lanes 4");
    REFUSED(rf_all_reduce(comm, a, b, 4, strange, RF_SUM, NULL, &error), RF_UNSUPPORTED, "code 9");
    REFUSED(rf_all_reduce(comm, a, b, 4, RF_F32, 0, NULL, &error), RF_INVALID_ARGUMENT, "number 0");
    REFUSED(rf_all_reduce(comm, a, b, 4, RF_F32, 9, NULL, &error), RF_INVALID_ARGUMENT, "number 9");
    REFUSED(rf_all_reduce(comm, a, b, 4, RF_F32, -1, NULL, &error), RF_INVALID_ARGUMENT, "number -1");
    REFUSED(rf_all_reduce(comm, a, b, 4, RF_F32, RF_CUSTOM, NULL, &error), RF_INVALID_ARGUMENT, "reduction is NULL");
    REFUSED(rf_all_reduce(comm, a, b, 4, RF_F32, RF_BITAND, NULL, &error), RF_UNSUPPORTED, "bitand");
    REFUSED(rf_all_reduce(comm, a, b, 4, RF_I32, RF_MEAN, NULL, &error), RF_UNSUPPORTED, "mean");
    REFUSED(rf_broadcast(comm, a, a, 4, RF_F32, n, NULL, &error), RF_INVALID_ARGUMENT, "root");
    REFUSED(rf_broadcast(comm, a, a, 4, RF_F32, -1, NULL, &error), RF_INVALID_ARGUMENT, "root -1");
    REFUSED(rf_send(comm, a, 4, RF_F32, n, NULL, &error), RF_INVALID_ARGUMENT, "rank");
    REFUSED(rf_recv(comm, a, 4, RF_F32, -3, NULL, &error), RF_INVALID_ARGUMENT, "rank -3");
    REFUSED(rf_all_gather(comm, a, b, huge, RF_F32, NULL, &error), RF_INVALID_ARGUMENT, "do not fit");
    REFUSED(rf_all_gather_v(comm, a, b, NULL, RF_F32, NULL, &error), RF_INVALID_ARGUMENT, "counts is NULL");
    REFUSED(rf_all_gather_v(comm, a, b, counts, RF_F32, NULL, &error), RF_INVALID_ARGUMENT, "do not fit");
    REFUSED(rf_all_to_all_v(comm, a, NULL, b, counts, RF_F32, NULL, &error), RF_INVALID_ARGUMENT, "counts to send is NULL");
    REFUSED(rf_all_reduce_batch(comm, NULL, 2, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "list of tensors is NULL");
    rf_tensor twice[2] = {{a, 8, RF_F32, 0}, {a + 7, 8, RF_F32, 0}};
    REFUSED(rf_all_reduce_batch(comm, twice, 2, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "overlap");

    rf_options options = RF_OPTIONS_INIT;
    options.size = 4;
    REFUSED(rf_barrier(comm, &options, &error), RF_INVALID_ARGUMENT, "size is 4");
    WELL(rf_options_init(&options, sizeof options));
    options.order = 3;
    REFUSED(rf_barrier(comm, &options, &error), RF_INVALID_ARGUMENT, "order");
    WELL(rf_options_init(&options, sizeof options));
    options.check = -1;
    REFUSED(rf_barrier(comm, &options, &error), RF_INVALID_ARGUMENT, "check");
    WELL(rf_options_init(&options, sizeof options));
    options.deadline_ns = -5;
    REFUSED(rf_barrier(comm, &options, &error), RF_INVALID_ARGUMENT, "deadline_ns is -5");
    WELL(rf_options_init(&options, sizeof options));
    options.algorithm = "rign";
    REFUSED(rf_barrier(comm, &options, &error), RF_INVALID_ARGUMENT, "rign");
    options.algorithm = "\xff\xfe";
    REFUSED(rf_barrier(comm, &options, &error), RF_INVALID_ARGUMENT, "UTF-8");
    WELL(rf_options_init(&options, sizeof options));
    options.staging = 7;
    REFUSED(rf_barrier(comm, &options, &error), RF_INVALID_ARGUMENT, "staging is 7");
    WELL(rf_options_init(&options, sizeof options));
    rf_request *request = NULL;
    rf_prepared *prepared = NULL;
    options.request = &request;
    options.prepared = &prepared;
    REFUSED(rf_barrier(comm, &options, &error), RF_INVALID_ARGUMENT, "at once");
    options.request = NULL;
    REFUSED(rf_all_reduce_batch(comm, twice, 1, RF_SUM, &options, &error), RF_UNSUPPORTED, "prepared");
    HOLDS(request == NULL && prepared == NULL);

    WELL(rf_options_init(&options, sizeof options));
    options.pack = 2;
    REFUSED(rf_barrier(comm, &options, &error), RF_INVALID_ARGUMENT, "pack is 2");
    options.size = 1u << 20;
    REFUSED(rf_barrier(comm, &options, &error), RF_INVALID_ARGUMENT, "size is 1048576");
    twice[0].reserved = 3;
    REFUSED(rf_all_reduce_batch(comm, twice, 1, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "reserved field");
    REFUSED(rf_all_reduce_batch(comm, twice, UINT64_MAX, RF_SUM, NULL, &error), RF_INVALID_ARGUMENT, "tensors");

    rf_error old = RF_ERROR_INIT;
    old.size = 16;
    old.rank = 99;
    HOLDS(rf_barrier(comm, NULL, &old) == RF_INVALID_ARGUMENT && old.rank == 99);

    REFUSED(rf_comm_split(comm, 0, 0, NULL, &error), RF_INVALID_ARGUMENT, "NULL");
    rf_comm *other = NULL;
    REFUSED(rf_comm_split(comm, INT64_MAX, 0, &other, &error), RF_INVALID_ARGUMENT, "color");
    REFUSED(rf_comm_group(comm, NULL, 1, &other, &error), RF_INVALID_ARGUMENT, "NULL");
    REFUSED(rf_comm_group(comm, counts, (uint64_t)n + 1, &other, &error), RF_INVALID_ARGUMENT, "ranks");
    REFUSED(rf_comm_group(comm, counts, 1, &other, &error), RF_INVALID_ARGUMENT, "group with rank");
    REFUSED(rf_comm_counters(comm, NULL, &error), RF_INVALID_ARGUMENT, "NULL");
    rf_counters counters = RF_COUNTERS_INIT;
    counters.size = 8;
    REFUSED(rf_comm_counters(comm, &counters, &error), RF_INVALID_ARGUMENT, "size is 8");
    HOLDS(rf_comm_rank(NULL) == -1 && rf_comm_size(NULL) == -1 && rf_comm_world_rank(comm, n) == -1);
    HOLDS(rf_comm_host(comm, n) == NULL && rf_comm_backend(NULL) == NULL && rf_comm_table(NULL) == NULL);

    void *data = NULL;
    rf_memory *memory = NULL;
    REFUSED(rf_allocate(comm, UINT64_MAX, &data, &memory, &error), RF_INVALID_ARGUMENT, "bytes of memory");
    REFUSED(rf_allocate(comm, 1ull << 46, &data, &memory, &error), RF_IO, "memory");
    HOLDS(error.kind == RF_KIND_SYSTEM);
    REFUSED(rf_allocate(comm, 8, NULL, &memory, &error), RF_INVALID_ARGUMENT, "NULL");
    REFUSED(rf_register(comm, NULL, 4096, &memory, &error), RF_INVALID_ARGUMENT, "NULL");
    REFUSED(rf_register(comm, (char *)a + 1, 4096, &memory, &error), RF_INVALID_ARGUMENT, "page");
    /* Others would write there, so read-only pages are refused where they would be shared. */
    void *pages = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    HOLDS(pages != MAP_FAILED);
    if (strcmp(rf_comm_backend(comm), "shm") == 0)
        REFUSED(rf_register(comm, pages, 8192, &memory, &error), RF_INVALID_ARGUMENT, "r--p");
    munmap(pages, 8192);
    HOLDS(memory == NULL && rf_memory_is_shared(NULL) == 0);
    WELL(rf_memory_release(NULL, &error));

    REFUSED(rf_request_test(NULL, &error), RF_INVALID_ARGUMENT, "request is NULL");
    REFUSED(rf_request_on_complete(NULL, NULL, NULL, NULL, &error), RF_INVALID_ARGUMENT, "request is NULL");
    REFUSED(rf_prepared_run(NULL, &error), RF_INVALID_ARGUMENT, "NULL");
    REFUSED(rf_prepared_wait(NULL, 0, &error), RF_INVALID_ARGUMENT, "NULL");

    /* Nothing of all this has happened: the group is sound, and the memory as it was. */
    WELL(rf_barrier(comm, NULL, &error));
    for (int i = 0; i < 64; i++)
        HOLDS(a[i] == (float)i && b[i] == (float)i);
    a[0] = (float)r;
    WELL(rf_all_reduce(comm, a, a, 1, RF_F32, RF_SUM, NULL, &error));
    HOLDS(a[0] == (float)(n * (n - 1) / 2));
}

static void reductions(void) {
    rf_reduction *reduction = NULL;
    rf_reduction_config config = RF_REDUCTION_INIT;
    config.destroy = destroy;
    destroyed = 0;
    REFUSED(rf_reduction_create(NULL, &reduction, &error), RF_INVALID_ARGUMENT, "NULL");
    REFUSED(rf_reduction_create(&config, &reduction, &error), RF_INVALID_ARGUMENT, "name");
    config.name = "odd";
    REFUSED(rf_reduction_create(&config, &reduction, &error), RF_INVALID_ARGUMENT, "no function");
    config.combine = combine;
    REFUSED(rf_reduction_create(&config, &reduction, &error), RF_UNSUPPORTED, "code 0");
    config.dtype = RF_I32;
    config.width = 6;
    REFUSED(rf_reduction_create(&config, &reduction, &error), RF_INVALID_ARGUMENT, "6 bytes");
    config.width = 1 << 20;
    REFUSED(rf_reduction_create(&config, &reduction, &error), RF_INVALID_ARGUMENT, "bytes");
    HOLDS(destroyed == 5);
    config.size = 0;
    REFUSED(rf_reduction_create(&config, &reduction, &error), RF_INVALID_ARGUMENT, "size is 0");
    HOLDS(destroyed == 5 && reduction == NULL);
}

static void configurations(void) {
    rf_comm *comm = NULL;
    rf_config config = RF_CONFIG_INIT;
    REFUSED(rf_comm_create(&config, NULL, &error), RF_INVALID_ARGUMENT, "NULL");
    config.size = 3;
    REFUSED(rf_comm_create(&config, &comm, &error), RF_INVALID_ARGUMENT, "size is 3");
    WELL(rf_config_init(&config, sizeof config));
    config.flags = 0x80;
    REFUSED(rf_comm_create(&config, &comm, &error), RF_UNSUPPORTED, "0x80");
    WELL(rf_config_init(&config, sizeof config));
    config.flags = RF_CONFIG_BARE;
    config.rank = 4;
    config.world_size = 4;
    REFUSED(rf_comm_create(&config, &comm, &error), RF_CONFIGURATION, "rank 4");
    HOLDS(error.kind == RF_KIND_SETUP);
    config.world_size = (int64_t)1 << 40;
    REFUSED(rf_comm_create(&config, &comm, &error), RF_INVALID_ARGUMENT, "ranks in the configuration");
    config.world_size = 4;
    config.rank = -7;
    REFUSED(rf_comm_create(&config, &comm, &error), RF_CONFIGURATION, "rank");
    WELL(rf_config_init(&config, sizeof config));
    config.store = "nowhere";
    REFUSED(rf_comm_create(&config, &comm, &error), RF_CONFIGURATION, "nowhere");
    WELL(rf_config_init(&config, sizeof config));
    config.deadline_ns = -1;
    REFUSED(rf_comm_create(&config, &comm, &error), RF_INVALID_ARGUMENT, "deadline_ns");
    WELL(rf_config_init(&config, sizeof config));
    rf_setting settings[1] = {{"dead_line", "9s"}};
    config.settings_count = 1;
    REFUSED(rf_comm_create(&config, &comm, &error), RF_INVALID_ARGUMENT, "settings is NULL");
    config.settings = settings;
    REFUSED(rf_comm_create(&config, &comm, &error), RF_CONFIGURATION, "dead_line");
    settings[0].key = "deadline";
    settings[0].value = "soon";
    REFUSED(rf_comm_create(&config, &comm, &error), RF_CONFIGURATION, "soon");
    settings[0].value = NULL;
    REFUSED(rf_comm_create(&config, &comm, &error), RF_INVALID_ARGUMENT, "value");

    char shown[32];
    uint64_t length = 0;
    settings[0].value = "90s";
    WELL(rf_config_show(&config, "deadline", shown, sizeof shown, &length, &error));
    HOLDS(strcmp(shown, "90s") == 0 && length == 4);
    WELL(rf_config_init(&config, sizeof config));
    config.deadline_ns = 1500000000;
    WELL(rf_config_show(&config, "deadline", shown, sizeof shown, NULL, &error));
    HOLDS(strcmp(shown, "1500ms") == 0);
    WELL(rf_config_show(NULL, "heartbeat", shown, 2, &length, &error));
    HOLDS(strlen(shown) == 1 && length > 2);
    REFUSED(rf_config_show(NULL, "heartbeet", shown, sizeof shown, &length, &error), RF_CONFIGURATION, "heartbeet");

    HOLDS(rf_key_count() > 10);
    rf_key_info key = RF_KEY_INIT;
    for (uint64_t i = 0; i < rf_key_count(); i++) {
        WELL(rf_key(i, &key));
        HOLDS(strncmp(key.environment, "RINGFOLD_", 9) == 0 && strlen(key.name) && strlen(key.meaning));
        char what[64];
        snprintf(what, sizeof what, "key:%s", key.name);
        HOLDS(rf_supports(what) == 1);
    }
    HOLDS(rf_key(rf_key_count(), &key) == RF_INVALID_ARGUMENT && rf_key(0, NULL) == RF_INVALID_ARGUMENT);
    key.size = 0;
    HOLDS(rf_key(0, &key) == RF_INVALID_ARGUMENT);
    HOLDS(rf_supports("dtype:bf16") && rf_supports("collective:all_to_all") && rf_supports("algorithm:ring"));
    HOLDS(rf_supports("backend:tcp") && rf_supports("op:mean") && rf_supports("feature:started"));
    HOLDS(!rf_supports("dtype:f8") && !rf_supports("feature:device_tensors") && !rf_supports("x") && !rf_supports(NULL));
    HOLDS(rf_version() == RF_VERSION && strchr(rf_version_string(), '.') != NULL);
    HOLDS(strcmp(rf_status_name(RF_PEER_DEAD), "peer dead") == 0 && strcmp(rf_status_name(-1), "unknown") == 0);
}

static void exchanges(void) {
    rf_comm *comm = NULL;
    rf_exchange exchange = RF_EXCHANGE_INIT;
    rf_config config = RF_CONFIG_INIT;
    config.flags = RF_CONFIG_BARE;
    config.init_deadline_ns = 20000000000;
    int how = 0;
    destroyed = 0;
    exchange.destroy = destroy;
    exchange.context = &how;
    REFUSED(rf_comm_create_by(NULL, &config, &comm, &error), RF_INVALID_ARGUMENT, "exchange is NULL");
    REFUSED(rf_comm_create_by(&exchange, &config, &comm, &error), RF_INVALID_ARGUMENT, "rank is -1");
    exchange.rank = 0;
    exchange.world_size = 1;
    REFUSED(rf_comm_create_by(&exchange, &config, &comm, &error), RF_INVALID_ARGUMENT, "no all_gather");
    exchange.all_gather = gather_nothing;
    REFUSED(rf_comm_create_by(&exchange, &config, &comm, &error), RF_BOOTSTRAP, "failed with 7: the cable is cut");
    how = 1;
    REFUSED(rf_comm_create_by(&exchange, &config, &comm, &error), RF_BOOTSTRAP, "no answer for rank 0");
    HOLDS(error.peer == 0);
    how = 2;
    REFUSED(rf_comm_create_by(&exchange, &config, &comm, &error), RF_BOOTSTRAP, "a rank that is none");
    how = 3;
    REFUSED(rf_comm_create_by(&exchange, &config, &comm, &error), RF_BOOTSTRAP, "twice");
    how = 4;
    REFUSED(rf_comm_create_by(&exchange, &config, &comm, &error), RF_BOOTSTRAP, "than its own");
    exchange.reserved = 1;
    REFUSED(rf_comm_create_by(&exchange, &config, &comm, &error), RF_INVALID_ARGUMENT, "reserved field");
    exchange.reserved = 0;
    exchange.world_size = (int64_t)1 << 40;
    REFUSED(rf_comm_create_by(&exchange, &config, &comm, &error), RF_INVALID_ARGUMENT, "ranks in the exchange");
    exchange.world_size = 1;
    exchange.rank = 3;
    REFUSED(rf_comm_create_by(&exchange, &config, &comm, &error), RF_INVALID_ARGUMENT, "own rank is 3");
    HOLDS(destroyed == 10 && comm == NULL);
    exchange.size = 1;
    config.log_destroy = destroy; /* of the configuration, which is in order */
    REFUSED(rf_comm_create_by(&exchange, &config, &comm, &error), RF_INVALID_ARGUMENT, "size is 1");
    HOLDS(destroyed == 11);
}

int main(void) {
    configurations();
    exchanges();
    reductions();
    rf_comm *threads[2];
    REFUSED(rf_comm_local(0, threads, &error), RF_INVALID_ARGUMENT, "0 threads");
    REFUSED(rf_comm_local(2, NULL, &error), RF_INVALID_ARGUMENT, "NULL");
    rf_comm *comm = NULL;
    WELL(rf_comm_create(NULL, &comm, &error));
    arguments(comm);
    rf_comm_release(comm);
    rf_comm_release(NULL);
    rf_request_release(NULL);
    rf_prepared_release(NULL);
    rf_reduction_release(NULL);
    puts("nothing has happened");
    return 0;
}
