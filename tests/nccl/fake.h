/* What the two stand-ins have in common: a stream is a queue of tasks, and brings what appends to it. */
#ifndef FAKE_H
#define FAKE_H

struct stream {
    int id, device;
    /* Appends a task. It is tried again and again, in its turn, until it returns other than 0. */
    int (*append)(struct stream *, int (*try)(void *), void *task);
    /* The same from a thread of NCCL's, which has the device's context by itself. */
    int (*append_late)(struct stream *, int (*try)(void *), void *task);
    /* Writes a line into the driver's log. */
    void (*log)(const char *line);
    struct task *first, *last;
};

#endif
