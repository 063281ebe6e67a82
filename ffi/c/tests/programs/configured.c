/* Groups that are formed by what a program says: an address, a directory, keys; the environment is not asked. Forks its ranks.
 * Usage: configured DIRECTORY */
#define _POSIX_C_SOURCE 200809L
#include "check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* A port that nobody has, as far as one can know. */
static int free_port(void) {
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    HOLDS(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    HOLDS(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
    close(fd);
    return ntohs(address.sin_port);
}

static int work(int rank, int size, const char *store, int by_keys) {
    char numbers[2][16];
    snprintf(numbers[0], sizeof numbers[0], "%d", rank);
    snprintf(numbers[1], sizeof numbers[1], "%d", size);
    const rf_setting settings[5] = {
        {"rank", numbers[0]}, {"world_size", numbers[1]}, {"store", store}, {"backend", "tcp"}, {"generation", "3"}};
    rf_config config = RF_CONFIG_INIT;
    config.flags = RF_CONFIG_BARE;
    config.init_deadline_ns = 60000000000;
    if (by_keys) {
        config.rank = 77; /* the settings win */
        config.settings = settings;
        config.settings_count = 5;
    } else {
        config.rank = rank;
        config.world_size = size;
        config.store = store;
    }
    rf_comm *comm = NULL;
    WELL(rf_comm_create(&config, &comm, &error));
    HOLDS(rf_comm_rank(comm) == rank && rf_comm_size(comm) == size);
    HOLDS(!by_keys || (strcmp(rf_comm_backend(comm), "tcp") == 0 && rf_comm_generation(comm) == 3));
    int64_t one = 1;
    WELL(rf_all_reduce(comm, &one, &one, 1, RF_I64, RF_SUM, NULL, &error));
    HOLDS(one == size && rf_comm_host(comm, rank) != NULL);
    rf_comm_release(comm);
    return 0;
}

static void group(int size, const char *store, int by_keys) {
    pid_t ranks[4];
    for (int rank = 0; rank < size; rank++) {
        ranks[rank] = fork();
        HOLDS(ranks[rank] >= 0);
        if (ranks[rank] == 0)
            _exit(work(rank, size, store, by_keys));
    }
    for (int rank = 0; rank < size; rank++) {
        int status = 1;
        HOLDS(waitpid(ranks[rank], &status, 0) == ranks[rank] && status == 0);
    }
}

int main(int argc, char **argv) {
    char store[4096];
    HOLDS(argc == 2);
    for (int by_keys = 0; by_keys < 2; by_keys++) {
        snprintf(store, sizeof store, "127.0.0.1:%d", free_port());
        group(3, store, by_keys);
        snprintf(store, sizeof store, "file://%s", argv[1]);
        group(2, store, by_keys);
    }
    puts("as the program says");
    return 0;
}
