// Blocking reads: takes lines from standard input, which come slowly, and works a little on each.

#include <stdio.h>
#include <string.h>

int main(void) {
    char line[300];
    unsigned number = 0;
    unsigned long hash = 5381;
    while (fgets(line, sizeof line, stdin)) {
        size_t length = strlen(line);
        for (int turn = 0; turn < 200; turn++)
            for (size_t i = 0; i < length; i++) hash = hash * 33 + (unsigned char)line[i];
        if (length && line[length - 1] == '\n') line[--length] = 0;
        printf("%u: %zu bytes, %lx: %.20s\n", ++number, length, hash, line);
        fflush(stdout);
        // Then something that is not lines.
        if (strcmp(line, "raw") == 0) {
            char bytes[7];
            for (int i = 0; i < 5; i++) {
                if (fread(bytes, 1, sizeof bytes, stdin) != sizeof bytes) return 1;
                printf("raw %.7s\n", bytes);
            }
        }
    }
    printf("%u lines, %s\n", number, ferror(stdin) ? "an error" : "the end");
    return 0;
}
