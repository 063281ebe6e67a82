/* A library without Arrow has every function, and says of those that end in _arrow that it cannot do them. */
#include "check.h"

int main(void) {
    rf_comm *comm = NULL;
    WELL(rf_comm_create(NULL, &comm, &error));
    HOLDS(rf_supports("feature:arrow") == 0 && rf_supports("feature:dlpack") == 1);
    struct ArrowSchema schema;
    struct ArrowArray array;
    struct ArrowArrayStream stream;
    memset(&schema, 0, sizeof schema);
    memset(&array, 0, sizeof array);
    memset(&stream, 0, sizeof stream);
#define LACKING(call) REFUSED(call, RF_UNSUPPORTED, "feature:arrow")
    LACKING(rf_all_reduce_arrow(comm, &schema, &array, NULL, &array, RF_SUM, NULL, &error));
    LACKING(rf_reduce_arrow(comm, &schema, &array, NULL, &array, RF_SUM, 0, NULL, &error));
    LACKING(rf_reduce_scatter_arrow(comm, &schema, &array, NULL, &array, RF_SUM, NULL, &error));
    LACKING(rf_broadcast_arrow(comm, &schema, &array, NULL, &array, 0, NULL, &error));
    LACKING(rf_shuffle_arrow(comm, &schema, &array, NULL, &array, "key", NULL, &error));
    LACKING(rf_all_gather_arrow(comm, &schema, &array, &stream, NULL, &error));
    LACKING(rf_gather_arrow(comm, &schema, &array, &stream, 0, NULL, &error));
    LACKING(rf_all_to_all_arrow(comm, &stream, &stream, NULL, &error));
    LACKING(rf_all_reduce_arrow_stream(comm, &stream, NULL, &array, RF_SUM, NULL, &error));
    rf_comm_release(comm);
    printf("without Arrow\n");
    return 0;
}
