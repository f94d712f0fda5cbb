// Floating point: planets, series, the C library's functions, and every digit of the results. No result is a NaN, whose bits
// may differ between kinds of processors.

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    double x, y, z, vx, vy, vz, mass;
} Body;

static Body bodies[5] = {
    {0, 0, 0, 0, 0, 0, 39.47},
    {4.84, -1.16, -0.10, 0.60, 2.81, -0.02, 0.037},
    {8.34, 4.12, -0.40, -1.01, 1.82, 0.008, 0.011},
    {12.89, -15.11, -0.22, 1.08, 0.86, -0.010, 0.0017},
    {15.37, -25.91, 0.17, 0.97, 0.59, -0.034, 0.0020},
};

static void advance(double dt) {
    for (int i = 0; i < 5; i++) {
        for (int j = i + 1; j < 5; j++) {
            double x = bodies[i].x - bodies[j].x, y = bodies[i].y - bodies[j].y, z = bodies[i].z - bodies[j].z;
            double square = x * x + y * y + z * z, size = dt / (square * sqrt(square));
            bodies[i].vx -= x * bodies[j].mass * size, bodies[j].vx += x * bodies[i].mass * size;
            bodies[i].vy -= y * bodies[j].mass * size, bodies[j].vy += y * bodies[i].mass * size;
            bodies[i].vz -= z * bodies[j].mass * size, bodies[j].vz += z * bodies[i].mass * size;
        }
    }
    for (int i = 0; i < 5; i++) {
        bodies[i].x += dt * bodies[i].vx, bodies[i].y += dt * bodies[i].vy, bodies[i].z += dt * bodies[i].vz;
    }
}

static double integral(double (*function)(double), double from, double to, int steps) {
    double sum = 0, width = (to - from) / steps;
    for (int i = 0; i < steps; i++) sum += function(from + (i + 0.5) * width);
    return sum * width;
}

static float single(float x) {
    for (int i = 0; i < 60000; i++) x = 3.7f * x * (1.0f - x);
    return x;
}

static double bell(double x) { return exp(-x * x); }
static double wave(double x) { return sin(x) * cos(3 * x) + log1p(x); }
static double powers(double x) { return pow(x, 1.5) + cbrt(x) + atan2(x, 2) + fmod(x * 10, 3); }

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 30;
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < 40000; i++) advance(0.001);
        printf("%d: planet %.17g %.17g %a\n", round, bodies[1].x, bodies[1].y, bodies[1].z);
        printf("%d: bell %.17g\n", round, integral(bell, -4, 4 + round, 20000));
        printf("%d: wave %.17g\n", round, integral(wave, 0, 10 + round, 20000));
        printf("%d: powers %a\n", round, integral(powers, 0, 3 + round, 20000));
        printf("%d: single %.9g\n", round, (double)single(0.1f + round / 100.0f));
    }
    return 0;
}
