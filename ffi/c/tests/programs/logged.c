/* Each communicator's log goes to its own function, its threads' lines among them, until it is gone. Run with one rank. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"
#include <pthread.h>
#include <time.h>

struct log {
    pthread_mutex_t lock;
    int lines, formed, loudest, destroyed;
    char last[256];
};

static void hear(void *context, rf_level level, const char *target, const char *text) {
    struct log *log = (struct log *)context;
    pthread_mutex_lock(&log->lock);
    log->lines++;
    if (strncmp(target, "ringfold", 8) != 0)
        log->lines = -1000000;
    if (strstr(text, "the group has formed") != NULL)
        log->formed++;
    if (level > log->loudest)
        log->loudest = level;
    snprintf(log->last, sizeof log->last, "%s: %s", target, text);
    pthread_mutex_unlock(&log->lock);
}

static void gone(void *context) {
    struct log *log = (struct log *)context;
    pthread_mutex_lock(&log->lock);
    log->destroyed++;
    pthread_mutex_unlock(&log->lock);
}

static int field(struct log *log, const int *of) {
    pthread_mutex_lock(&log->lock);
    const int value = *of;
    pthread_mutex_unlock(&log->lock);
    return value;
}

int main(void) {
    static struct log logs[3] = {{PTHREAD_MUTEX_INITIALIZER, 0, 0, 0, 0, ""},
                                 {PTHREAD_MUTEX_INITIALIZER, 0, 0, 0, 0, ""},
                                 {PTHREAD_MUTEX_INITIALIZER, 0, 0, 0, 0, ""}};
    const char *filters[3] = {"info", "trace", NULL};
    rf_comm *comms[3];
    for (int i = 0; i < 3; i++) {
        rf_config config = RF_CONFIG_INIT;
        config.flags = RF_CONFIG_BARE;
        config.log = hear;
        config.log_context = &logs[i];
        config.log_destroy = gone;
        config.log_filter = filters[i];
        WELL(rf_comm_create(&config, &comms[i], &error));
    }
    HOLDS(logs[0].formed == 1 && logs[0].loudest == RF_LEVEL_INFO);
    HOLDS(logs[1].formed == 1 && logs[1].lines > logs[0].lines && logs[1].loudest >= RF_LEVEL_DEBUG);
    HOLDS(logs[2].lines == 0); /* "warn" is the default */
    const int before = logs[0].lines;
    float data[4] = {1, 2, 3, 4};
    WELL(rf_all_reduce(comms[1], data, data, 4, RF_F32, RF_SUM, NULL, &error));
    HOLDS(field(&logs[0], &logs[0].lines) == before);
    for (int i = 0; i < 3; i++)
        rf_comm_release(comms[i]);
    /* Its threads end soon, and then the context is given back. */
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 4000 && !field(&logs[i], &logs[i].destroyed); j++) {
            const struct timespec time = {0, 5000000};
            nanosleep(&time, NULL);
        }
        HOLDS(logs[i].destroyed == 1);
    }
    rf_config config = RF_CONFIG_INIT;
    config.flags = RF_CONFIG_BARE;
    config.log = hear;
    config.log_context = &logs[0];
    config.log_destroy = gone;
    config.log_filter = "ringfold=loud";
    rf_comm *comm = NULL;
    REFUSED(rf_comm_create(&config, &comm, &error), RF_CONFIGURATION, "loud");
    HOLDS(logs[0].destroyed == 2 && comm == NULL);
    puts("each hears its own");
    return 0;
}
