// Has as much memory as its first argument says, in MiB, none of it zero; then writes so many pages of it (second argument), other ones
// each time, and sleeps for so many milliseconds (third), for ever; or, if the third is 0, looks at the clock and prints a line each
// time, as fast as it can. Each line is the number of the pass and the time of day in nanoseconds. Has no C library.

#include "bare.h"

struct subscription { u64 userdata; u64 tag; u32 clock; u32 pad; u64 timeout; u64 precision; u64 flags; };

IMPORT("poll_oneoff") u32 poll_oneoff(const struct subscription *in, void *out, u32 count, u32 *result);

static u32 digits(char *line, u32 at, u64 value) {
    do line[--at] = (char)('0' + value % 10); while (value /= 10);
    return at;
}

static void print(u64 pass, u64 time) {
    char line[48];
    u32 at = sizeof line, result;
    line[--at] = '\n';
    at = digits(line, at, time);
    line[--at] = ' ';
    at = digits(line, at, pass);
    // What is not taken at once comes next.
    while (at < sizeof line) {
        struct buffer out = {line + at, sizeof line - at};
        if (fd_write(1, &out, 1, &result)) return;
        at += result;
    }
}

void _start(void) {
    u32 *base = begin(), result;
    if (!base) return;
    u32 mib = number(arguments[1]), pages = number(arguments[2]), sleep = number(arguments[3]);
    for (u32 word = 0; word < mib << 18; word += 16) base[word] = word + 1;
    char event[32];
    for (u64 pass = 0, at = 0;; pass++) {
        for (u32 page = 0; page < pages; page++) {
            ((volatile u32 *)base)[at * 1024] += 1;
            at += 17;
            if (at >= mib * 256) at -= mib * 256;
        }
        u64 time = 0;
        clock_time_get(0, 0, &time);
        print(pass, time);
        if (sleep) {
            struct subscription wish = {0, 0, 1, 0, (u64)sleep * 1000000, 0, 0};
            poll_oneoff(&wish, event, 1, &result);
        }
    }
}
