/* Sums a column of Arrow's among all ranks, as much of it as each has: made and read by Arrow's C data interface alone.
 *
 *     cc arrow.c $(pkg-config --cflags --libs ringfold) -o arrow
 *     ringfold run -n 4 -- ./arrow
 */
#include <ringfold.h>
#include <stdio.h>
#include <stdlib.h>

#define ROWS 4

/* A column of this program's: values, a bit for each that is there, and the two addresses that Arrow wants. */
typedef struct {
    double values[ROWS];
    uint8_t there;
    const void *buffers[2];
} column;

static void release_column(struct ArrowArray *array) {
    free(array->private_data);
    array->release = NULL;
}

static void release_type(struct ArrowSchema *schema) {
    schema->release = NULL;
}

int main(void) {
    rf_error error = RF_ERROR_INIT;
    rf_comm *comm = NULL;
    if (rf_comm_create(NULL, &comm, &error) != RF_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    const int rank = (int)rf_comm_rank(comm);

    /* Rank 0 has all values, rank 1 all but the second, rank 2 all but the third ... and nobody has the first. */
    column *own = (column *)calloc(1, sizeof *own);
    if (own == NULL)
        return 1;
    for (int row = 0; row < ROWS; row++) {
        own->values[row] = 10 * row;
        if (row > 0 && row != rank)
            own->there |= (uint8_t)(1 << row);
    }
    own->buffers[0] = &own->there;
    own->buffers[1] = own->values;
    struct ArrowSchema type = {"g", "clicks", NULL, ARROW_FLAG_NULLABLE, 0, NULL, NULL, release_type, NULL};
    struct ArrowArray array = {ROWS, -1, 0, 2, 0, own->buffers, NULL, NULL, release_column, own};

    rf_options options = RF_OPTIONS_INIT;
    options.nulls = RF_NULLS_SKIP;
    struct ArrowArray sums;
    rf_status status = rf_all_reduce_arrow(comm, &type, &array, NULL, &sums, RF_SUM, &options, &error);
    if (status == RF_OK) {
        /* The column is the library's now, which has released it; the sums are this program's. */
        const uint8_t *there = (const uint8_t *)sums.buffers[0];
        const double *values = (const double *)sums.buffers[1];
        printf("rank %d of %d:", rank, (int)rf_comm_size(comm));
        for (int64_t row = sums.offset; row < sums.offset + sums.length; row++) {
            if (there == NULL || (there[row / 8] >> (row % 8) & 1))
                printf(" %g", values[row]);
            else
                printf(" null");
        }
        printf("\n");
        sums.release(&sums);
    } else {
        fprintf(stderr, "%s\n", error.text);
        array.release(&array); /* it was not moved */
    }
    type.release(&type);
    rf_comm_release(comm);
    return status == RF_OK ? 0 : 1;
}
