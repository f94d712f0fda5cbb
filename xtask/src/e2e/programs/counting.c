/* Writes its memory (first argument, MiB) in an order of its own for so many steps (second argument, thousands), and prints now and then what
   it has come to; the same, line by line, into a file of the tree if there is a third argument. Where it runs makes no difference. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int main(int count, char **arguments) {
    if (count < 3) return 2;
    size_t words = (size_t)atoi(arguments[1]) << 18;
    uint64_t steps = (uint64_t)atoll(arguments[2]) * 1000;
    uint32_t *memory = calloc(words, sizeof *memory);
    FILE *file = count > 3 ? fopen(arguments[3], "w+") : NULL;
    if (!memory || (count > 3 && !file)) return 3;
    uint32_t state = 1, sum = 0;
    for (uint64_t step = 1; step <= steps; step++) {
        state = state * 1664525u + 1013904223u;
        uint32_t *word = &memory[(state >> 3) % words];
        sum = (sum << 5 | sum >> 27) + *word;
        *word += state ^ sum;
        if (step % (steps / 50) == 0) {
            printf("%llu %08x\n", (unsigned long long)step, sum);
            fflush(stdout);
            if (file && fprintf(file, "%llu %08x\n", (unsigned long long)step, sum) < 0) return 4;
        }
    }
    if (file) {
        /* What it wrote is read again, wherever it is now. */
        char line[64];
        unsigned lines = 0;
        rewind(file);
        while (fgets(line, sizeof line, file)) lines++;
        printf("%u lines\n", lines);
        fclose(file);
    }
    return 0;
}
