/* The library loaded twice, under two names: two users in one process who know nothing of each other. Then closed, and opened
 * again. Usage: loaded FIRST.so SECOND.so */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <pthread.h>
#include <ringfold.h>
#include <stdio.h>
#include <string.h>

struct user {
    void *library;
    rf_status (*local)(uint64_t, rf_comm **, rf_error *);
    rf_status (*all_reduce)(rf_comm *, const void *, void *, uint64_t, rf_dtype, rf_op, const rf_options *, rf_error *);
    rf_status (*wait)(rf_request *, int64_t, rf_error *);
    void (*release_request)(rf_request *);
    void (*release)(rf_comm *);
    rf_comm *comms[2];
};

static int find(struct user *user, const char *path) {
    user->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (user->library == NULL)
        return fprintf(stderr, "%s\n", dlerror());
    *(void **)&user->local = dlsym(user->library, "rf_comm_local");
    *(void **)&user->all_reduce = dlsym(user->library, "rf_all_reduce");
    *(void **)&user->wait = dlsym(user->library, "rf_request_wait");
    *(void **)&user->release_request = dlsym(user->library, "rf_request_release");
    *(void **)&user->release = dlsym(user->library, "rf_comm_release");
    return user->local == NULL || user->all_reduce == NULL || user->wait == NULL || user->release_request == NULL ||
           user->release == NULL;
}

static void *work(void *given) {
    struct user *user = (struct user *)given;
    static const char wrong[] = "wrong";
    if (user->local(2, user->comms, NULL) != RF_OK)
        return (void *)wrong;
    for (int round = 0; round < 200; round++) {
        int64_t data[2] = {round, 1};
        rf_request *requests[2];
        for (int i = 0; i < 2; i++) {
            rf_options options = RF_OPTIONS_INIT;
            options.request = &requests[i];
            if (user->all_reduce(user->comms[i], &data[i], &data[i], 1, RF_I64, RF_SUM, &options, NULL) != RF_OK)
                return (void *)wrong;
        }
        for (int i = 0; i < 2; i++) {
            if (user->wait(requests[i], -1, NULL) != RF_OK || data[i] != round + 1)
                return (void *)wrong;
            user->release_request(requests[i]);
        }
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    for (int round = 0; round < 5; round++) {
        struct user users[2];
        memset(users, 0, sizeof users);
        pthread_t threads[2];
        for (int i = 0; i < 2; i++)
            if (find(&users[i], argv[1 + i]))
                return 3;
        if (users[0].local == users[1].local)
            return 4;
        for (int i = 0; i < 2; i++)
            if (pthread_create(&threads[i], NULL, work, &users[i]) != 0)
                return 5;
        for (int i = 0; i < 2; i++) {
            void *said = NULL;
            if (pthread_join(threads[i], &said) != 0 || said != NULL)
                return 6;
        }
        for (int i = 0; i < 2; i++) {
            users[i].release(users[i].comms[0]);
            users[i].release(users[i].comms[1]);
            /* Threads of the library may be about to end; what they run stays. */
            if (dlclose(users[i].library) != 0)
                return 7;
        }
    }
    puts("loaded twice, closed and opened again");
    return 0;
}
