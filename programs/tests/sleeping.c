// Time: sleeps often and briefly, and checks that no sleep is shorter than asked and that no clock goes backwards, also when it
// goes on elsewhere in the middle of one.

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static long long now(clockid_t clock) {
    struct timespec time;
    if (clock_gettime(clock, &time) != 0) {
        perror("reading a clock");
        exit(1);
    }
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int argc, char **argv) {
    int sleeps = argc > 1 ? atoi(argv[1]) : 400;
    long long last = now(CLOCK_MONOTONIC), slept = 0;
    for (int i = 0; i < sleeps; i++) {
        long long asked = 1000000LL * (1 + i % 7);
        struct timespec time = {asked / 1000000000, asked % 1000000000};
        while (nanosleep(&time, &time) != 0) {
            if (errno != EINTR) {
                perror("sleeping");
                return 1;
            }
        }
        long long after = now(CLOCK_MONOTONIC);
        if (after - last < asked) {
            printf("sleep %d took %lld ns, asked for %lld\n", i, after - last, asked);
            return 1;
        }
        slept += asked;
        last = now(CLOCK_MONOTONIC);
        if (last < after) {
            printf("the clock went back by %lld ns\n", after - last);
            return 1;
        }
        if (i % 20 == 19) printf("slept %d times, %lld ms\n", i + 1, slept / 1000000), fflush(stdout);
    }
    return 0;
}
