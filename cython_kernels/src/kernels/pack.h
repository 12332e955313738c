/* pack.h - operands copied into panels that the tile product reads with unit stride.
 *
 * A panel holds WIDTH rows of a (or columns of b) side by side for each k, zeros beyond the
 * operand's edge. Three layouts are fast: unit stride along the panel (copied, several panels at
 * a time so that reads stay on a page), unit stride along k (turned in 8 x 8 blocks), and
 * anything else float by float.
 */
#ifndef CK_PACK_H
#define CK_PACK_H

#include "transpose.h"

enum { PACK_SLACK = 8 }; /* floats a pack may write beyond its panels */

/* dst[p*width + i] = i < n ? src[i*rs + p*ks] : 0 */
INLINE void pack_panel(float *dst, const int width, const float *src, int64_t rs, int64_t ks,
                       int64_t n, int64_t k) {
    for (int64_t p = 0; p < k; p++)
        for (int64_t i = 0; i < width; i++)
            dst[p * width + i] = i < n ? src[i * rs + p * ks] : 0.0f;
}

/* A whole panel whose rows lie along k; `readable` >= width rows exist from src on. */
INLINE void pack_along_k(float *dst, const int width, const float *src, int64_t rs,
                         int64_t readable, int64_t k) {
    int64_t p = 0;
    if (readable >= round_up(width, 8))
        for (; p + 8 <= k; p += 8) /* what a block writes beyond width, later blocks overwrite */
            for (int i = (width - 1) / 8 * 8; i >= 0; i -= 8)
                transpose_8x8(dst + p * width + i, width, src + i * rs + p, rs);
    for (; p < k; p++)
        for (int i = 0; i < width; i++) dst[p * width + i] = src[i * rs + p];
}

/* Panels of `width` over n rows of src, k deep. */
INLINE void pack(float *dst, const int width, const float *src, int64_t rs, int64_t ks,
                 int64_t n, int64_t k) {
    enum { GROUP = 8 };
    int64_t whole = n / width * width;
    if (rs == 1)
        for (int64_t i0 = 0; i0 < whole; i0 += GROUP * width) {
            int64_t i1 = smaller(whole, i0 + GROUP * width);
            for (int64_t p = 0; p < k; p++)
                for (int64_t i = i0; i < i1; i += width)
                    memcpy(dst + i * k + p * width, src + p * ks + i,
                           (size_t)width * sizeof(float));
        }
    else
        for (int64_t i = 0; i < whole; i += width) {
            if (ks == 1)
                pack_along_k(dst + i * k, width, src + i * rs, rs, n - i, k);
            else
                pack_panel(dst + i * k, width, src + i * rs, rs, ks, width, k);
        }
    if (whole < n)
        pack_panel(dst + whole * k, width, src + whole * rs, rs, ks, n - whole, k);
}

#endif
