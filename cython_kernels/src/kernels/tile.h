/* tile.h - the register-blocked product that gemm.c and attention.h are built from.
 *
 * A tile of MR rows by NV vectors is summed over k in registers: MR * NV sums keep both FMA
 * pipes busy, NV loads of b and MR broadcasts of a feed them. The sums of one element run over
 * k in ascending order, so they do not depend on the tile that holds it. Compiled by GCC 12 for
 * AVX2 the loop is 12 FMAs and 8 loads and runs at the machine's FMA peak (docs/kernels.md).
 */
#ifndef CK_TILE_H
#define CK_TILE_H

#include "kernel.h"

#define NV 2
#define NR (NV * VLEN)
#if VLEN == 16
#define MR 14 /* 28 sums + 2 of b + broadcast: 31 of 32 registers */
#elif VLEN == 4 && defined(__aarch64__)
#define MR 8 /* 16 + 2 + 1 of 32 */
#else
#define MR 6 /* 12 + 2 + 1 of 16 */
#endif

/* A loop over k is unrolled by copying its body: written out by hand, GCC reorders the copies and
 * runs out of registers. */
#if defined(__clang__)
#define UNROLL_K _Pragma("clang loop unroll_count(4)")
#else
#define UNROLL_K _Pragma("GCC unroll 4")
#endif

/* acc[i][v] = sum_p a[i*a_rs + p*a_cs] * b[p*ldb + v*VLEN ..]; mr, nv are constants where this
 * is inlined. */
INLINE void tile_product(vf acc[MR][NV], const int mr, const int nv, const float *a,
                         int64_t a_rs, int64_t a_cs, const float *b, int64_t ldb, int64_t k) {
    UNROLL for (int i = 0; i < mr; i++) UNROLL for (int v = 0; v < nv; v++) acc[i][v] = (vf){0};
    UNROLL_K for (int64_t p = 0; p < k; p++) {
        vf bv[NV];
        UNROLL for (int v = 0; v < nv; v++) bv[v] = load(b + v * VLEN);
        UNROLL for (int i = 0; i < mr; i++) {
            vf ai = set1(a[i * a_rs]);
            UNROLL for (int v = 0; v < nv; v++) acc[i][v] += ai * bv[v];
        }
        a += a_cs;
        b += ldb;
    }
}

#endif
