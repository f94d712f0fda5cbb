// qsort and bsearch: the C library calls back into the program from the middle of its own loops.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char name[12];
    unsigned number;
    double weight;
} Record;

static unsigned state = 99;
static unsigned long compared;

static unsigned any(void) { return state = state * 1664525u + 1013904223u; }

static int by_name(const void *a, const void *b) {
    compared++;
    return strcmp(((const Record *)a)->name, ((const Record *)b)->name);
}
static int by_number(const void *a, const void *b) {
    const Record *x = a, *y = b;
    compared++;
    return (x->number > y->number) - (x->number < y->number);
}
static int by_weight(const void *a, const void *b) {
    const Record *x = a, *y = b;
    compared++;
    return x->weight < y->weight ? 1 : x->weight > y->weight ? -1 : by_number(a, b);
}
static int by_letter(const void *a, const void *b) { return *(const char *)a - *(const char *)b; }

// Sorts what it compares: a qsort in a qsort.
static int by_letters(const void *a, const void *b) {
    char x[12], y[12];
    memcpy(x, ((const Record *)a)->name, 12), memcpy(y, ((const Record *)b)->name, 12);
    qsort(x, strlen(x), 1, by_letter), qsort(y, strlen(y), 1, by_letter);
    int order = strcmp(x, y);
    return order ? order : by_name(a, b);
}

static unsigned digest(const Record *records, int count) {
    unsigned hash = 2166136261u;
    for (int i = 0; i < count; i++) hash = (hash ^ records[i].number) * 16777619u;
    return hash;
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 10, count = 3000;
    Record *records = calloc(count, sizeof *records);
    if (!records) abort();
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < count; i++) {
            int letters = 3 + any() % 8;
            for (int k = 0; k < letters; k++) records[i].name[k] = 'a' + any() / 65536 % 26;
            records[i].name[letters] = 0;
            records[i].number = any() >> 4;
            records[i].weight = (any() >> 8) / 256.0;
        }
        int (*orders[])(const void *, const void *) = {by_name, by_number, by_weight, by_letters};
        for (int i = 0; i < 4; i++) {
            compared = 0;
            qsort(records, count, sizeof *records, orders[i]);
            printf("%d: order %d: %08x after %lu comparisons\n", round, i, digest(records, count), compared);
        }
        qsort(records, count, sizeof *records, by_number);
        int found = 0;
        for (int i = 0; i < count; i += 3) {
            Record *at = bsearch(&records[i], records, count, sizeof *records, by_number);
            found += at && at->number == records[i].number;
        }
        printf("%d: found %d, first %s, last %s\n", round, found, records[0].name, records[count - 1].name);
    }
    free(records);
    return 0;
}
