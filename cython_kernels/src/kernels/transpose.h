/* transpose.h - 8 x 8 blocks of floats turned in registers, for packing and for attention's keys.
 *
 * Moving floats one by one costs a load and a store each; in registers a block of 64 costs 8
 * of both and 24 shuffles. No arithmetic, so nothing here touches a bit.
 */
#ifndef CK_TRANSPOSE_H
#define CK_TRANSPOSE_H

#include "kernel.h"

/* dst[j*dst_step + i] = src[i*src_step + j] for i, j < 8; written in ascending order, so that rows
 * of dst may overlap: of two values for one place the later row's stays. */
INLINE void transpose_8x8(float *dst, int64_t dst_step, const float *src, int64_t src_step) {
#if defined(__AVX2__)
    __m256 r[8], t[8];
    for (int i = 0; i < 4; i++) { /* rows i and i + 4: left halves together, right halves */
        __m256 low = _mm256_loadu_ps(src + i * src_step);
        __m256 high = _mm256_loadu_ps(src + (i + 4) * src_step);
        r[i] = _mm256_permute2f128_ps(low, high, 0x20);
        r[i + 4] = _mm256_permute2f128_ps(low, high, 0x31);
    }
    for (int half = 0; half < 8; half += 4) {
        t[half + 0] = _mm256_unpacklo_ps(r[half + 0], r[half + 1]);
        t[half + 1] = _mm256_unpackhi_ps(r[half + 0], r[half + 1]);
        t[half + 2] = _mm256_unpacklo_ps(r[half + 2], r[half + 3]);
        t[half + 3] = _mm256_unpackhi_ps(r[half + 2], r[half + 3]);
        for (int pair = 0; pair < 2; pair++) {
            __m256 a = t[half + pair], b = t[half + 2 + pair];
            float *to = dst + (half + 2 * pair) * dst_step;
            _mm256_storeu_ps(to, _mm256_shuffle_ps(a, b, 0x44));
            _mm256_storeu_ps(to + dst_step, _mm256_shuffle_ps(a, b, 0xee));
        }
    }
#elif defined(__SSE2__)
    __m128 r[8][2];
    for (int half = 0; half < 2; half++)
        for (int j = 0; j < 8; j += 4) {
            const float *from = src + 4 * half * src_step + j;
            __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + src_step);
            __m128 c = _mm_loadu_ps(from + 2 * src_step), d = _mm_loadu_ps(from + 3 * src_step);
            _MM_TRANSPOSE4_PS(a, b, c, d);
            r[j][half] = a, r[j + 1][half] = b, r[j + 2][half] = c, r[j + 3][half] = d;
        }
    for (int j = 0; j < 8; j++)
        for (int half = 0; half < 2; half++)
            _mm_storeu_ps(dst + j * dst_step + 4 * half, r[j][half]);
#else
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 8; i++) dst[j * dst_step + i] = src[i * src_step + j];
#endif
}

#endif
