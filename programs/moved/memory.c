// Memory, stack, tables and numbers of a process that moves, also in the middle of a loop.
#include "moved.h"
#include <math.h>
#include <stdarg.h>
#include <unistd.h>
#include <wasm_simd128.h>

static uint32_t state = 4711;

static uint32_t any(void) { return state = state * 1664525u + 1013904223u; }

static void grown(void) {
    size_t before = __builtin_wasm_memory_size(0);
    MUST(__builtin_wasm_memory_grow(0, 3) == before);
    uint8_t *added = (uint8_t *)(before << 16);
    added[0] = 1;
    added[(3 << 16) - 1] = 2;
    moved();
    MUST(__builtin_wasm_memory_size(0) == before + 3);
    MUST(added[0] == 1 && added[(3 << 16) - 1] == 2 && added[100] == 0);
    MUST(__builtin_wasm_memory_grow(0, 2) == before + 3);
    moved();
    MUST(__builtin_wasm_memory_size(0) == before + 5);
}

static void large(void) {
    size_t count = 12 << 20;
    uint32_t *numbers = malloc(count * sizeof *numbers);
    MUST(numbers);
    for (size_t i = 0; i < count; i++) numbers[i] = any();
    moved();
    state = 4711;
    for (size_t i = 0; i < count; i++) MUST(numbers[i] == any());
}

static void sparse(void) {
    uint8_t *bytes = calloc(64, 1 << 20);
    MUST(bytes);
    for (size_t i = 0; i < 64; i++) bytes[(i << 20) + i * 4097] = (uint8_t)(i + 1);
    moved();
    for (size_t i = 0; i < 64; i++) MUST(bytes[(i << 20) + i * 4097] == i + 1);
    for (size_t i = 0; i < 64 << 20; i += 4096) MUST(bytes[i] == 0 || bytes[i] <= 64);
}

static uint32_t *dirtied;

static void dirty(void) { dirtied[any() % (4 << 20)]++; }

// What is written while it moves must arrive, each write once.
static void written_meanwhile(void) {
    dirtied = calloc(4 << 20, sizeof *dirtied);
    MUST(dirtied);
    moved_while(dirty);
    moved_while(dirty);
    uint64_t sum = 0;
    for (size_t i = 0; i < 4 << 20; i++) sum += dirtied[i];
    uint32_t end = state;
    state = 4711;
    uint64_t rounds = 0;
    uint32_t *again = calloc(4 << 20, sizeof *again);
    while (rounds < sum) {
        again[any() % (4 << 20)]++;
        rounds++;
    }
    MUST(state == end);
    MUST(!memcmp(again, dirtied, (4 << 20) * sizeof *again));
}

static uint64_t deep(int depth, uint64_t sum) {
    volatile uint32_t own = any();
    if (depth == 0) {
        moved();
        return sum;
    }
    uint32_t before = own;
    uint64_t result = deep(depth - 1, sum + own);
    MUST(own == before);
    return result ^ own;
}

static void recursion(void) {
    uint64_t once = deep(3000, 1);
    uint32_t end = state;
    state = 4711;
    uint64_t sum = 1;
    uint32_t drawn[3001];
    for (int i = 0; i <= 3000; i++) drawn[i] = any();
    for (int i = 0; i < 3000; i++) sum += drawn[i];
    for (int i = 2999; i >= 0; i--) sum ^= drawn[i];
    MUST(once == sum && state == end);
}

typedef uint32_t step(uint32_t);
static uint32_t one(uint32_t x) { return x * 3 + 1; }
static uint32_t two(uint32_t x) { return x ^ (x >> 5); }
static uint32_t three(uint32_t x) {
    if (x % 1000003 == 7) moved();
    return x + 11;
}
static step *volatile table[] = {one, two, three};

static void function_pointers(void) {
    step *kept = table[2];
    moved();
    MUST(kept == table[2] && kept(7 + 1000003 * 2) == 7 + 1000003 * 2 + 11);
    uint32_t x = 5, y = 5;
    for (int i = 0; i < 1000; i++) {
        x = table[i % 2](x);
        y = i % 2 ? y ^ (y >> 5) : y * 3 + 1;
    }
    MUST(x == y);
}

static int compared;

static int compare(const void *left, const void *right) {
    if (++compared == 2000) moved();
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return a < b ? -1 : a > b;
}

static void in_a_callback(void) {
    static uint32_t numbers[1000];
    for (int i = 0; i < 1000; i++) numbers[i] = any();
    qsort(numbers, 1000, sizeof *numbers, compare);
    for (int i = 1; i < 1000; i++) MUST(numbers[i - 1] <= numbers[i]);
    MUST(compared > 2000);
}

static uint64_t integer_sum, integer_rounds;

static void integer_step(void) { integer_sum = integer_sum * 6364136223846793005ull + ++integer_rounds; }

static void in_a_loop(void) {
    moved_while(integer_step);
    moved_while(integer_step);
    uint64_t sum = 0;
    for (uint64_t i = 1; i <= integer_rounds; i++) sum = sum * 6364136223846793005ull + i;
    MUST(sum == integer_sum);
}

static double real_sum;
static uint64_t real_rounds;

static void real_step(void) {
    real_rounds++;
    real_sum += 1.0 / (double)(real_rounds * real_rounds);
}

static void floats_in_a_loop(void) {
    moved_while(real_step);
    double sum = 0;
    for (uint64_t i = 1; i <= real_rounds; i++) sum += 1.0 / (double)(i * i);
    MUST(sum == real_sum);
}

static void float_bits(void) {
    volatile double negative_zero = -0.0, infinite = INFINITY, tiny = 4.9e-324;
    volatile uint64_t odd_nan = 0x7ff8dead0000beefull;
    double nan;
    memcpy(&nan, (const void *)&odd_nan, sizeof nan);
    volatile double kept_nan = nan;
    moved();
    uint64_t bits;
    double now = kept_nan;
    memcpy(&bits, &now, sizeof bits);
    MUST(bits == 0x7ff8dead0000beefull);
    MUST(signbit(negative_zero) && negative_zero == 0 && isinf(infinite) && tiny > 0 && tiny / 2 == 0);
}

__attribute__((target("simd128"))) static void vectors(void) {
    v128_t sum = wasm_i32x4_splat(1), step = wasm_i32x4_make(1, 2, 3, 4);
    for (int i = 0; i < 1000; i++) {
        sum = wasm_i32x4_add(wasm_i32x4_mul(sum, step), wasm_i32x4_splat(i));
        if (i % 400 == 399) moved();
    }
    uint32_t lanes[4], expected[4] = {1, 1, 1, 1};
    wasm_v128_store(lanes, sum);
    for (int i = 0; i < 1000; i++)
        for (uint32_t k = 0; k < 4; k++) expected[k] = expected[k] * (k + 1) + (uint32_t)i;
    MUST(!memcmp(lanes, expected, sizeof lanes));
}

struct node {
    struct node *next;
    uint32_t number;
    char *text;
};

static void heap(void) {
    struct node *list = NULL;
    for (int i = 0; i < 20000; i++) {
        struct node *node = malloc(sizeof *node);
        node->next = list;
        node->number = (uint32_t)i;
        node->text = malloc(24);
        snprintf(node->text, 24, "number %d", i);
        list = node;
        if (i % 8000 == 7999) moved();
    }
    int count = 0;
    while (list) {
        char text[24];
        snprintf(text, sizeof text, "number %u", list->number);
        MUST(!strcmp(text, list->text));
        struct node *next = list->next;
        free(list->text);
        free(list);
        list = next;
        if (++count == 10000) moved();
    }
    MUST(count == 20000);
}

static uint32_t of_frame(int size) {
    uint8_t frame[size];
    for (int i = 0; i < size; i++) frame[i] = (uint8_t)any();
    moved();
    uint32_t sum = 0;
    for (int i = 0; i < size; i++) sum = sum * 31 + frame[i];
    return sum;
}

static void large_frame(void) {
    uint32_t got = of_frame(40000), expected = 0;
    state = 4711;
    for (int i = 0; i < 40000; i++) expected = expected * 31 + (uint8_t)any();
    MUST(got == expected);
}

static int of_arguments(int count, ...) {
    va_list arguments;
    va_start(arguments, count);
    int sum = 0;
    for (int i = 0; i < count; i++) {
        sum += va_arg(arguments, int);
        if (i == count / 2) moved();
    }
    va_end(arguments);
    return sum;
}

static void variable_arguments(void) { MUST(of_arguments(6, 1, 20, 300, 4000, 50000, 600000) == 654321); }

static void globals(void) {
    static uint32_t in_data = 7;
    static uint32_t in_bss;
    in_data = 8;
    in_bss = 9;
    moved();
    MUST(in_data == 8 && in_bss == 9);
}

static void many_moves(void) {
    uint32_t sum = 0, expected = 0;
    for (uint32_t i = 0; i < 12; i++) {
        sum = sum * 3 + i;
        moved();
    }
    for (uint32_t i = 0; i < 12; i++) expected = expected * 3 + i;
    MUST(sum == expected);
}

const struct test_case memory_cases[] = {
    {"grown", grown},
    {"large", large},
    {"sparse", sparse},
    {"written-meanwhile", written_meanwhile},
    {"recursion", recursion},
    {"function-pointers", function_pointers},
    {"in-a-callback", in_a_callback},
    {"in-a-loop", in_a_loop},
    {"floats-in-a-loop", floats_in_a_loop},
    {"float-bits", float_bits},
    {"vectors", vectors},
    {"heap", heap},
    {"large-frame", large_frame},
    {"variable-arguments", variable_arguments},
    {"globals", globals},
    {"many-moves", many_moves},
    {0},
};
