// Dense matrix product: three nested loops, the innermost a few instructions long.
#include <stdio.h>
#include <stdlib.h>

enum { SIDE = 160 };
static double a[SIDE][SIDE], b[SIDE][SIDE], c[SIDE][SIDE];

static __attribute__((noinline)) void multiply(void) {
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            double sum = 0;
            for (int k = 0; k < SIDE; k++)
                sum += a[i][k] * b[k][j];
            c[i][j] = sum;
        }
}

int main(int count, char **arguments) {
    int rounds = count > 1 ? atoi(arguments[1]) : 10;
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            a[i][j] = i * 0.5 + j;
            b[i][j] = i - j * 0.25;
        }
    double trace = 0;
    for (int round = 0; round < rounds; round++) {
        multiply();
        trace += c[round % SIDE][round * 7 % SIDE];
        a[round % SIDE][0] += 1e-9 * trace;
    }
    printf("%.12g\n", trace);
}
