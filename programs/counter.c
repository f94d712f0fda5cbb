// Counts, five numbers a second: what `una demo` moves around. Compiled by `programs/compile programs/counter.c programs/counter.wasm`.
#include <stdio.h>
#include <time.h>

int main(void) {
    struct timespec nap = {.tv_nsec = 200000000};
    for (unsigned long number = 1;; number++) {
        printf("%lu\n", number);
        fflush(stdout);
        nanosleep(&nap, NULL);
    }
}
