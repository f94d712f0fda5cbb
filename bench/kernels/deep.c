// Goes as many calls deep as it is told and works there: a stack to be captured.
#include <stdio.h>
#include <stdlib.h>

static volatile unsigned work;

static __attribute__((noinline)) unsigned down(unsigned depth, unsigned value) {
    if (depth == 0) {
        unsigned rounds = work;
        for (unsigned i = 0; i < rounds; i++)
            value = value * 1664525 + 1013904223 + work;
        return value;
    }
    // What is done after the call keeps the compiler from making a loop of it.
    unsigned below = down(depth - 1, value * 31 + depth);
    return below * 31 + (depth ^ below >> 7);
}

int main(int count, char **arguments) {
    unsigned depth = count > 1 ? (unsigned)atoi(arguments[1]) : 10000;
    work = count > 2 ? (unsigned)atoi(arguments[2]) : 1000;
    printf("%u\n", down(depth, 1));
}
