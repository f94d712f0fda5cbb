// v128: vectors that live in locals across loops and calls, on the stack below calls, and in memory.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <wasm_simd128.h>

static v128_t next(v128_t state) {
    state = wasm_v128_xor(state, wasm_i32x4_shl(state, 13));
    state = wasm_v128_xor(state, wasm_u32x4_shr(state, 17));
    return wasm_v128_xor(state, wasm_i32x4_shl(state, 5));
}

// Recursion, so that vectors are in frames below frames.
static __attribute__((noinline)) v128_t folded(v128_t state, int depth) {
    if (depth == 0) {
        for (int i = 0; i < 200; i++) state = next(state);
        return state;
    }
    v128_t turned = wasm_i8x16_shuffle(state, state, 5, 4, 7, 6, 1, 0, 3, 2, 13, 12, 15, 14, 9, 8, 11, 10);
    v128_t left = folded(next(state), depth - 1);
    v128_t right = folded(turned, depth - 1);
    return wasm_i32x4_add(wasm_i32x4_mul(left, wasm_i32x4_splat(31)), wasm_v128_xor(right, turned));
}

static void multiply(const float *a, const float *b, float *c, int size) {
    for (int i = 0; i < size; i++) {
        for (int j = 0; j < size; j += 4) {
            v128_t sum = wasm_f32x4_splat(0);
            for (int k = 0; k < size; k++) {
                v128_t row = wasm_f32x4_splat(a[i * size + k]);
                sum = wasm_f32x4_add(sum, wasm_f32x4_mul(row, wasm_v128_load(&b[k * size + j])));
            }
            wasm_v128_store(&c[i * size + j], sum);
        }
    }
}

static uint64_t distances(const uint8_t *a, const uint8_t *b, int size) {
    v128_t sum = wasm_i64x2_splat(0);
    for (int i = 0; i < size; i += 16) {
        v128_t x = wasm_v128_load(a + i), y = wasm_v128_load(b + i);
        v128_t apart = wasm_v128_or(wasm_u8x16_sub_sat(x, y), wasm_u8x16_sub_sat(y, x));
        v128_t pairs = wasm_u32x4_extadd_pairwise_u16x8(wasm_u16x8_extadd_pairwise_u8x16(apart));
        sum = wasm_i64x2_add(sum, wasm_u64x2_extend_low_u32x4(pairs));
        sum = wasm_i64x2_add(sum, wasm_u64x2_extend_high_u32x4(pairs));
    }
    return (uint64_t)wasm_i64x2_extract_lane(sum, 0) + (uint64_t)wasm_i64x2_extract_lane(sum, 1);
}

#define SIZE 96

static float a[SIZE * SIZE], b[SIZE * SIZE], c[SIZE * SIZE];

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 60;
    v128_t state = wasm_i32x4_make(1, 22, 333, 4444);
    for (int i = 0; i < SIZE * SIZE; i++) a[i] = (float)(i % 17) / 16, b[i] = (float)(i % 23) / 32;
    for (int round = 0; round < rounds; round++) {
        state = folded(state, 10);
        printf("%d: lanes %08x %08x %08x %08x\n", round, (unsigned)wasm_i32x4_extract_lane(state, 0),
               (unsigned)wasm_i32x4_extract_lane(state, 1), (unsigned)wasm_i32x4_extract_lane(state, 2),
               (unsigned)wasm_i32x4_extract_lane(state, 3));
        for (int i = 0; i < 6; i++) {
            multiply(a, b, c, SIZE);
            for (int k = 0; k < SIZE * SIZE; k++) a[k] = c[k] / 16;
        }
        printf("%d: matrix %.9g %.9g\n", round, (double)c[7], (double)c[SIZE * SIZE - 1]);
        printf("%d: distance %llu\n", round, (unsigned long long)distances((uint8_t *)a, (uint8_t *)b, sizeof a));
        for (int k = 0; k < SIZE * SIZE; k++) a[k] = (float)((k * (round + 3)) % 17) / 16;
    }
    return 0;
}
