/* kernel.h - what every kernel source includes: its name for this ISA, vectors, the team's cut.
 *
 * CK_ISA is the object library's ISA (CMakeLists.txt), so that CK(gemm) is ck_gemm_avx2 in one
 * and ck_gemm_generic in another. Every kernel is declared from the table's own type: a source
 * whose signature strays from kernels.h does not compile.
 */
#ifndef CK_KERNEL_H
#define CK_KERNEL_H

#include "kernels.h"
#include "vec.h"

#define CK_PASTE_(a, b, c) a##b##_##c
#define CK_PASTE(a, b, c) CK_PASTE_(a, b, c)
#define CK(name) CK_PASTE(ck_, name, CK_ISA)

#define CK_DECLARE(name) extern __typeof__(*((ck_kernels *)0)->name) CK(name);
CK_KERNEL_LIST(CK_DECLARE)
#undef CK_DECLARE

typedef struct range {
    int64_t begin, end;
} range;

/* This part's share of [0, n), cut at multiples of `grain` only. */
INLINE range team_share(int64_t n, int64_t grain, int part, int parts) {
    int64_t tiles = (n + grain - 1) / grain;
    int64_t begin = tiles * part / parts * grain, end = tiles * (part + 1) / parts * grain;
    return (range){begin < n ? begin : n, end < n ? end : n};
}

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

#endif
