// Much output: printf with every kind of conversion, line after line, to standard output and now and then to standard error.

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    int lines = argc > 1 ? atoi(argv[1]) : 80000;
    uint64_t state = 88172645463325252u;
    for (int line = 0; line < lines; line++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        double real = (double)(int64_t)state / 1e15;
        switch (line % 6) {
        case 0: printf("%6d|%-12s|%+08.3f|%#x\n", line, state & 1 ? "odd" : "even", real, (unsigned)state); break;
        case 1: printf("%6d|%.17g|%e|%G\n", line, real, real, real); break;
        case 2: printf("%6d|%" PRIu64 "|%" PRId64 "|%#" PRIo64 "\n", line, state, (int64_t)state, state); break;
        case 3: printf("%6d|%*d|%-*d|%c\n", line, 12, (int)state, 12, (int)(state >> 32), (int)('a' + state % 26)); break;
        case 4: printf("%6d|%.*s|%a\n", line, (int)(state % 20), "abcdefghijklmnopqrstuvwxyz", real); break;
        case 5: fprintf(line % 600 == 5 ? stderr : stdout, "%6d|%08" PRIX64 "|%5.1f%%\n", line, state, real / 1e3); break;
        }
    }
    return 0;
}
