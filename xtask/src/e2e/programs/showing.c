/* Counts and computes, and has no effects but what it prints: `showing MIB LINES`. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int count, char **arguments) {
    if (count < 3) return 2;
    size_t words = (size_t)atoi(arguments[1]) << 18;
    unsigned lines = (unsigned)strtoul(arguments[2], NULL, 10);
    uint32_t *memory = calloc(words, sizeof *memory);
    if (!memory) return 3;
    uint32_t state = 1, sum = 0;
    for (unsigned line = 1; line <= lines; line++) {
        for (unsigned step = 0; step < 10000; step++) {
            state = state * 1664525u + 1013904223u;
            uint32_t *word = &memory[(state >> 3) % words];
            sum = (sum << 5 | sum >> 27) + *word;
            *word += state ^ sum;
        }
        printf("%u %08x\n", line, sum);
        fflush(stdout);
        /* Not so much that what was shown first is forgotten. */
        nanosleep(&(struct timespec){0, 100000000}, NULL);
    }
    return 0;
}
