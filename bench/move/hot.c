// Has as much memory as its first argument says, in MiB, none of it zero; then writes its hot set (second argument, pages) for ever. Prints
// now and then for how long it stood still at most, in microseconds, by the clock on the wall. As WebAssembly it has no C library; for this
// machine it can be compiled too, for what moves such processes.

typedef unsigned int u32;
typedef unsigned long long u64;

static void print(u64 value);
static u64 now(void);

static void work(u32 *base, u32 mib, u32 hot) {
    for (u32 word = 0; word < mib << 18; word += 16) base[word] = word + 1;
    print(0);
    u64 last = now(), told = last, most = 0;
    for (u32 pass = 0;; pass++) {
        // Far from one another: each is a page that is written again.
        for (u32 page = 0, at = 0; page < hot; page++) {
            ((volatile u32 *)base)[at * 1024] += pass;
            at += 17;
            if (at >= mib * 256) at -= mib * 256;
        }
        u64 time = now();
        if (time > last && time - last > most) most = time - last;
        last = time;
        if (time - told > 200000000) {
            print(most / 1000);
            told = time, most = 0;
        }
    }
}

#ifdef __wasm__

#include "bare.h"

static void print(u64 value) {
    char line[24];
    u32 at = sizeof line, result;
    line[--at] = '\n';
    do line[--at] = (char)('0' + value % 10); while (value /= 10);
    struct buffer out = {line + at, sizeof line - at};
    fd_write(1, &out, 1, &result);
}

static u64 now(void) {
    u64 time = 0;
    clock_time_get(0, 0, &time);
    return time;
}

void _start(void) {
    u32 *base = begin();
    if (base) work(base, number(arguments[1]), number(arguments[2]));
}

#else

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void print(u64 value) {
    printf("%llu\n", value);
    fflush(stdout);
}

static u64 now(void) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return (u64)time.tv_sec * 1000000000 + (u64)time.tv_nsec;
}

int main(int count, char **words) {
    if (count < 3) return 2;
    u32 mib = (u32)atoi(words[1]), hot = (u32)atoi(words[2]);
    u32 *base = aligned_alloc(65536, (size_t)mib << 20);
    if (base) work(base, mib, hot);
    return 1;
}

#endif
