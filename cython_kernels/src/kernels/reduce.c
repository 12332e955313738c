/* reduce.c - sums in the canonical order of docs/numerics.md: the same bits on every ISA.
 *
 * Blocks of 4096 elements; in a block element i is added, as a double, to lane i mod 16 in
 * ascending order; the 16 lanes are added in a tree (upper half onto lower); the blocks' sums are
 * added in ascending order. A float's square is exact in a double, so contraction to FMA cannot
 * change a bit.
 */
#include "kernel.h"

enum { BLOCK = 4096, LANES = 16 };

INLINE double block_sum(const float *x, int64_t n, int squares) {
    double lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        UNROLL for (int j = 0; j < LANES; j++) {
            double v = x[i + j];
            lane[j] += squares ? v * v : v;
        }
    for (int64_t j = 0; i + j < n; j++) {
        double v = x[i + j];
        lane[j] += squares ? v * v : v;
    }
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int j = 0; j < half; j++) lane[j] += lane[j + half];
    return lane[0];
}

INLINE double canonical_sum(const float *x, int64_t n, int squares) {
    double total = 0;
    for (int64_t i = 0; i < n; i += BLOCK)
        total += block_sum(x + i, smaller(BLOCK, n - i), squares);
    return total;
}

double CK(sum)(const float *x, int64_t n) { return canonical_sum(x, n, 0); }
double CK(sum_squares)(const float *x, int64_t n) { return canonical_sum(x, n, 1); }
