// A byte-code machine whose instructions are functions in a table: nothing but indirect calls.
#include <stdio.h>
#include <stdlib.h>

struct machine {
    int stack[64];
    int top, at;
    const int *code;
};

typedef int instruction(struct machine *, int);

static int push(struct machine *m, int value) { m->stack[m->top++] = value; return 1; }
static int pop(struct machine *m, int value) { (void)value; m->top--; return 1; }
static int add(struct machine *m, int value) { (void)value; m->top--; m->stack[m->top - 1] += m->stack[m->top]; return 1; }
static int subtract(struct machine *m, int value) { (void)value; m->top--; m->stack[m->top - 1] -= m->stack[m->top]; return 1; }
static int copy(struct machine *m, int depth) { m->stack[m->top] = m->stack[m->top - 1 - depth]; m->top++; return 1; }
static int mix(struct machine *m, int value) { m->stack[m->top - 1] = m->stack[m->top - 1] * 31 ^ value; return 1; }
static int store(struct machine *m, int place) { m->top--; m->stack[place] = m->stack[m->top]; return 1; }
static int jump_unless_zero(struct machine *m, int to) { m->top--; if (m->stack[m->top]) m->at = to; return 1; }
static int halt(struct machine *m, int value) { (void)m; (void)value; return 0; }

enum { PUSH, POP, ADD, SUBTRACT, COPY, MIX, STORE, JUMP, HALT };
static instruction *const instructions[] = {push, pop, add, subtract, copy, mix, store, jump_unless_zero, halt};

static __attribute__((noinline)) int run(struct machine *m) {
    for (;;) {
        int operation = m->code[m->at], value = m->code[m->at + 1];
        m->at += 2;
        if (!instructions[operation](m, value))
            return m->stack[0];
    }
}

int main(int count, char **arguments) {
    int rounds = count > 1 ? atoi(arguments[1]) : 1000;
    // stack[0]: what is computed; stack[1]: rounds to go.
    const int code[] = {
        PUSH, 7, PUSH, rounds,
        /* 4 */ COPY, 1, MIX, 0x55, COPY, 1, ADD, 0, STORE, 0,
        PUSH, 12345, COPY, 0, SUBTRACT, 0, POP, 0,
        PUSH, 1, SUBTRACT, 0, COPY, 0, JUMP, 4, HALT, 0,
    };
    static struct machine machine;
    machine.code = code;
    printf("%d\n", run(&machine));
}
