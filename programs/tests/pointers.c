// Calls through pointers: a small machine whose instructions are functions, and call-backs that call back.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct Machine Machine;
typedef void (*Operation)(Machine *, int32_t);

typedef struct {
    Operation operation;
    int32_t operand;
} Instruction;

struct Machine {
    const Instruction *program;
    int64_t stack[64];
    int64_t variables[8];
    int top, at, running;
};

static void push(Machine *m, int32_t value) { m->stack[m->top++] = value; }
static void load(Machine *m, int32_t variable) { m->stack[m->top++] = m->variables[variable]; }
static void store(Machine *m, int32_t variable) { m->variables[variable] = m->stack[--m->top]; }
static void add(Machine *m, int32_t unused) { (void)unused, m->top--, m->stack[m->top - 1] += m->stack[m->top]; }
static void multiply(Machine *m, int32_t unused) { (void)unused, m->top--, m->stack[m->top - 1] *= m->stack[m->top]; }
static void remainder_of(Machine *m, int32_t by) { m->stack[m->top - 1] %= by; }
static void jump_if(Machine *m, int32_t to) { if (m->stack[--m->top]) m->at = to; }
static void halt(Machine *m, int32_t unused) { (void)unused, m->running = 0; }

// v0 = v0 * 31 + v1 mod 1000003, v1 counts down.
static const Instruction counting[] = {
    {load, 0}, {push, 31}, {multiply, 0}, {load, 1}, {add, 0}, {remainder_of, 1000003}, {store, 0},
    {load, 1}, {push, -1}, {add, 0}, {store, 1}, {load, 1}, {jump_if, 0}, {halt, 0},
};

static int64_t execute(const Instruction *program, int64_t count) {
    Machine machine = {.program = program, .running = 1};
    machine.variables[1] = count;
    while (machine.running) {
        Instruction now = machine.program[machine.at++];
        now.operation(&machine, now.operand);
    }
    return machine.variables[0];
}

typedef uint32_t (*Fold)(uint32_t, uint32_t);
typedef uint32_t (*Over)(Fold, uint32_t, unsigned);

static uint32_t mixed(uint32_t a, uint32_t b) { return (a ^ b) * 2654435761u; }
static uint32_t summed(uint32_t a, uint32_t b) { return a + b * b; }
static uint32_t rotated(uint32_t a, uint32_t b) { return (a << 5 | a >> 27) ^ b; }

static uint32_t upwards(Fold fold, uint32_t start, unsigned count) {
    for (unsigned i = 0; i < count; i++) start = fold(start, i);
    return start;
}
static uint32_t downwards(Fold fold, uint32_t start, unsigned count) {
    while (count--) start = fold(start, count);
    return start;
}
static uint32_t halved(Fold fold, uint32_t start, unsigned count) {
    static const Over either[] = {upwards, downwards};
    if (count < 64) return either[count & 1](fold, start, count);
    return fold(halved(fold, start, count / 2), halved(fold, start * 7 + count, count - count / 2));
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 40;
    Fold folds[] = {mixed, summed, rotated};
    Over overs[] = {upwards, downwards, halved};
    for (int round = 0; round < rounds; round++) {
        printf("%d: machine %lld\n", round, (long long)execute(counting, 60000 + round));
        for (unsigned i = 0; i < 9; i++)
            printf(" %08x", overs[(i + round) % 3](folds[i / 3], (uint32_t)round, 150000));
        putchar('\n');
        // The table of functions changes its order as it is used.
        Fold first = folds[0];
        folds[0] = folds[1], folds[1] = folds[2], folds[2] = first;
    }
    return 0;
}
