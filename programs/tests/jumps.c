// setjmp and longjmp: out of deep recursion, out of loops, again and again, as interpreters use them for errors.
//
// Debian's clang 14 cannot compile this to WebAssembly's standard exceptions, so the compiled program is in the repository:
// `cargo xtask programs` makes it with the compiler in the PyPI package `ziglang`.

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

// The exception that longjmp throws; the compiler refers to it, no library defines it.
__asm__(".globl __c_longjmp\n.tagtype __c_longjmp i32\n__c_longjmp:\n");

static unsigned state = 4711;

static unsigned any(void) { return state = state * 1664525u + 1013904223u; }

static jmp_buf stop;

static unsigned search(unsigned depth, unsigned value) {
    if (value % 9973 == 0) longjmp(stop, (int)(depth + 1));
    if (depth == 9) return value % 5;
    unsigned sum = 0;
    for (unsigned i = 0; i < 2 + value % 2; i++) {
        sum += search(depth + 1, value * 1664525u + i + 1);
        value ^= sum << 7;
    }
    return sum + 1;
}

// A tiny language of additions, divisions and brackets; errors leave the parser by longjmp.
typedef struct {
    const char *at;
    jmp_buf failed;
} Parser;

static long sum(Parser *parser);

static long atom(Parser *parser) {
    if (*parser->at == '(') {
        parser->at++;
        long value = sum(parser);
        if (*parser->at != ')') longjmp(parser->failed, 1);
        parser->at++;
        return value;
    }
    if (*parser->at < '0' || *parser->at > '9') longjmp(parser->failed, 2);
    long value = 0;
    while (*parser->at >= '0' && *parser->at <= '9') value = value * 10 + (*parser->at++ - '0');
    return value;
}

static long quotient(Parser *parser) {
    long value = atom(parser);
    while (*parser->at == '/') {
        parser->at++;
        long by = atom(parser);
        if (by == 0) longjmp(parser->failed, 3);
        value /= by;
    }
    return value;
}

static long sum(Parser *parser) {
    long value = quotient(parser);
    while (*parser->at == '+') {
        parser->at++;
        value += quotient(parser);
    }
    return value;
}

static void make(char *text, int *length, int depth) {
    unsigned choice = any() >> 16;
    if (depth == 0 || choice % 4 == 0) {
        *length += sprintf(text + *length, "%u", choice % 97);
        if (choice % 61 == 0) *length += sprintf(text + *length, "?");
        return;
    }
    if (choice % 3 == 0) text[(*length)++] = '(';
    make(text, length, depth - 1);
    text[(*length)++] = choice % 5 ? '+' : '/';
    make(text, length, depth - 1);
    if (choice % 3 == 0 && choice % 41) text[(*length)++] = ')';
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 60;
    for (int round = 0; round < rounds; round++) {
        volatile unsigned jumped = 0, returned = 0;
        volatile unsigned long depths = 0;
        for (volatile int i = 0; i < 400; i++) {
            int from = setjmp(stop);
            if (from == 0) {
                returned += 1 + search(0, any()) % 2;
            } else {
                jumped++, depths += (unsigned long)from * (unsigned long)(i + 1);
            }
        }
        printf("%d: jumped %u, returned %u, depths %lu\n", round, jumped, returned, depths);
        volatile long total = 0;
        volatile unsigned errors[4] = {0, 0, 0, 0};
        for (volatile int i = 0; i < 400; i++) {
            char text[4096];
            int length = 0;
            make(text, &length, 7);
            text[length] = 0;
            Parser parser = {text, {0}};
            int failure = setjmp(parser.failed);
            errors[failure]++;
            if (failure == 0) {
                total += sum(&parser);
                if (*parser.at) longjmp(parser.failed, 2);
            }
        }
        printf("%d: total %ld, tried %u, brackets %u, signs %u, divisions %u\n", round, total, errors[0], errors[1], errors[2],
               errors[3]);
    }
    return 0;
}
