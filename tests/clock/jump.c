/* A wall clock that jumps: to be preloaded. Every second look of a thread at the time of day is an hour ahead, so that the clock goes
 * forth and back with every call. All other clocks tell what the kernel says. */

#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define HOUR 3600

static _Thread_local int ahead;

static time_t jump(void)
{
    ahead = !ahead;
    return ahead ? HOUR : 0;
}

static int true_time(clockid_t clock, struct timespec *time)
{
    return (int)syscall(SYS_clock_gettime, clock, time);
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = true_time(clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI))
        time->tv_sec += jump();
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    if (true_time(CLOCK_REALTIME, &now) != 0)
        return -1;
    time->tv_sec = now.tv_sec + jump();
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *into)
{
    struct timespec now;
    if (true_time(CLOCK_REALTIME, &now) != 0)
        return -1;
    now.tv_sec += jump();
    if (into)
        *into = now.tv_sec;
    return now.tv_sec;
}
