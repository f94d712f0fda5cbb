/* Writes its memory in an order of its own and prints now and then what it has come to, the same into a file, until another file is there:
   `enduring MIB LINES FILE STOP`. It ends after so many lines at the latest. The file, if it is not `-`, is opened for appending, so that a
   second copy of this process would be seen in it. Where it runs makes no difference. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STEPS_PER_LINE = 1000000 };

int main(int count, char **arguments) {
    if (count < 5) return 2;
    size_t words = (size_t)atoi(arguments[1]) << 18;
    unsigned lines = (unsigned)strtoul(arguments[2], NULL, 10), line = 0;
    uint32_t *memory = calloc(words, sizeof *memory);
    int has_file = strcmp(arguments[3], "-") != 0;
    FILE *file = has_file ? fopen(arguments[3], "a+") : NULL;
    if (!memory || (has_file && !file)) return 3;
    /* All of it is there, and none of it is zero. */
    for (size_t at = 0; at < words; at++) memory[at] = (uint32_t)at * 2654435761u + 1;
    uint32_t state = 1, sum = 0;
    while (line < lines && access(arguments[4], F_OK) != 0) {
        for (unsigned step = 0; step < STEPS_PER_LINE; step++) {
            state = state * 1664525u + 1013904223u;
            uint32_t *word = &memory[(state >> 3) % words];
            sum = (sum << 5 | sum >> 27) + *word;
            *word += state ^ sum;
        }
        line++;
        printf("%u %08x\n", line, sum);
        fflush(stdout);
        if (file && (fprintf(file, "%u %08x\n", line, sum) < 0 || fflush(file))) return 4;
    }
    if (!file) return 0;
    /* What it wrote is read again, wherever it is now: each line once, in order. */
    char text[64];
    unsigned read = 0, number;
    rewind(file);
    while (fgets(text, sizeof text, file)) {
        if (sscanf(text, "%u", &number) != 1 || number != read + 1) return 5;
        read++;
    }
    fclose(file);
    return read == line ? 0 : 6;
}
