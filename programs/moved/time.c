// Time, environment, input and chance of a process that moves.
#include "moved.h"
#include <errno.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

static int64_t now(clockid_t clock) {
    struct timespec at;
    MUST(clock_gettime(clock, &at) == 0);
    return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

static int64_t last;

static void look(void) {
    int64_t at = now(CLOCK_MONOTONIC);
    MUST(at >= last);
    last = at;
}

static void monotonic(void) {
    look();
    moved();
    look();
    moved_while(look);
    look();
    // It stood still for a moment, not for days.
    MUST(last - now(CLOCK_MONOTONIC) < 1000000000);
}

static void wall_clock(void) {
    int64_t before = now(CLOCK_REALTIME), began = now(CLOCK_MONOTONIC);
    moved();
    int64_t wall = now(CLOCK_REALTIME) - before, passed = now(CLOCK_MONOTONIC) - began;
    // Both clocks count the same time, but for what the machines' own clocks differ.
    MUST(wall - passed < 2000000000 && passed - wall < 2000000000);
}

static void sleeping(void) {
    int64_t began = now(CLOCK_MONOTONIC);
    printf("ready\n");
    fflush(stdout);
    struct timespec duration = {.tv_sec = 1, .tv_nsec = 500000000};
    MUST(nanosleep(&duration, NULL) == 0);
    MUST(now(CLOCK_MONOTONIC) - began >= 1500000000);
    char byte;
    MUST(read(0, &byte, 1) == 1);
}

static void polling(void) {
    printf("ready\n");
    fflush(stdout);
    struct pollfd input = {.fd = 0, .events = POLLRDNORM};
    MUST(poll(&input, 1, 60000) == 1 && input.revents);
    char byte;
    MUST(read(0, &byte, 1) == 1);
    MUST(poll(&input, 1, 0) == 0);
}

static void environment(void) {
    MUST(setenv("MOVED_OWN", "set by hand", 1) == 0);
    MUST(getenv("MOVED_GIVEN") && !strcmp(getenv("MOVED_GIVEN"), "given at the start"));
    moved();
    MUST(!strcmp(getenv("MOVED_GIVEN"), "given at the start") && !strcmp(getenv("MOVED_OWN"), "set by hand"));
}

static void chance(void) {
    uint8_t one[32] = {0}, other[32] = {0};
    MUST(getentropy(one, sizeof one) == 0);
    moved();
    MUST(getentropy(other, sizeof other) == 0);
    MUST(memcmp(one, other, sizeof one));
}


// Moves itself, by what it writes into a file, while it holds that file open.
static void itself(void) {
    moved();
    FILE *control = fopen("/proc/self/ctl", "w");
    MUST(control && getenv("MOVED_GIVEN"));
    fprintf(control, "move a");
    MUST(fflush(control) == 0);
    char status[512];
    for (int found = 0; !found;) {
        FILE *file = fopen("/proc/self/status", "r");
        MUST(file);
        status[fread(status, 1, sizeof status - 1, file)] = 0;
        fclose(file);
        found = strstr(status, "node: 1\n") != NULL;
    }
    fclose(control);
}

static void exits(void) {
    moved();
    printf("done\n");
    fflush(stdout);
    exit(0);
}

const struct test_case time_cases[] = {
    {"monotonic", monotonic},
    {"wall-clock", wall_clock},
    {"sleeping", sleeping},
    {"polling", polling},
    {"environment", environment},
    {"chance", chance},
    {"itself", itself},
    {"exits", exits},
    {0},
};
