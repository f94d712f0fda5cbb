// malloc, realloc, calloc and free: the allocator is stopped in the middle of its work, memory grows, and everything that was
// written is checked.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 500

static unsigned state = 7;

static unsigned any(void) { return state = state * 1664525u + 1013904223u; }

static struct {
    unsigned char *bytes;
    size_t size;
    unsigned char seed;
} slots[SLOTS];

static void fill(int slot) {
    for (size_t i = 0; i < slots[slot].size; i++) slots[slot].bytes[i] = (unsigned char)(slots[slot].seed + i * 7);
}

static void check(int slot, size_t size) {
    for (size_t i = 0; i < size; i++) {
        if (slots[slot].bytes[i] != (unsigned char)(slots[slot].seed + i * 7)) {
            printf("slot %d is damaged at %zu\n", slot, i);
            exit(1);
        }
    }
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 40;
    size_t held = 0, most = 0;
    for (int round = 0; round < rounds; round++) {
        unsigned allocated = 0, resized = 0, freed = 0;
        for (int step = 0; step < 3000; step++) {
            int slot = any() / 4096 % SLOTS;
            unsigned choice = any() / 65536 % 3;
            size_t size = 1 + any() / 1024 % (choice == 1 ? 9000 : 3000);
            if (!slots[slot].bytes) {
                slots[slot].bytes = choice ? malloc(size) : calloc(1, size);
                slots[slot].size = size;
                slots[slot].seed = (unsigned char)any();
                held += size, allocated++;
            } else if (choice) {
                check(slot, slots[slot].size);
                slots[slot].bytes = realloc(slots[slot].bytes, size);
                if (slots[slot].bytes) check(slot, size < slots[slot].size ? size : slots[slot].size);
                held += size - slots[slot].size;
                slots[slot].size = size, resized++;
            } else {
                check(slot, slots[slot].size);
                free(slots[slot].bytes);
                held -= slots[slot].size;
                slots[slot].bytes = NULL, freed++;
                continue;
            }
            if (!slots[slot].bytes) abort();
            fill(slot);
            if (held > most) most = held;
        }
        printf("%d: %u allocated, %u resized, %u freed, %zu bytes held\n", round, allocated, resized, freed, held);
    }
    for (int slot = 0; slot < SLOTS; slot++) free(slots[slot].bytes);
    printf("at most %zu bytes\n", most);
    return 0;
}
