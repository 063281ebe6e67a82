/* What the programs of the tests have in common: a check that says what did not hold, and where. */
#ifndef CHECK_H
#define CHECK_H

#include <ringfold.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static rf_error error = RF_ERROR_INIT;

#define HOLDS(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            fprintf(stderr, "%s:%d: %s does not hold (last error: %s)\n", __FILE__, __LINE__, #condition, error.text); \
            exit(1);                                                                           \
        }                                                                                      \
    } while (0)

#define WELL(call) HOLDS((call) == RF_OK)

/* A call that is refused: with this status, a text that has these words, and the group as it was. */
#define REFUSED(call, wanted, words)                                                          \
    do {                                                                                      \
        memset(error.text, 0, sizeof error.text);                                             \
        rf_status refused_ = (call);                                                          \
        if (refused_ != (wanted) || error.status != (wanted) || strstr(error.text, words) == NULL) { \
            fprintf(stderr, "%s:%d: %s gave %d (%s), not %d (...%s...)\n", __FILE__, __LINE__, #call, refused_, error.text, \
                    (wanted), words);                                                         \
            exit(1);                                                                          \
        }                                                                                     \
    } while (0)

#endif
