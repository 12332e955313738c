/* attention.h - blocks and small products shared by attention's forward and backward.
 *
 * A block of BLOCK queries meets one block of BLOCK keys at a time (Dao et al. 2022), so memory
 * is linear in context. Rows are copied into blocks padded to `pitch` floats, a whole number of
 * vectors; keys and values are transposed where the product runs along them. Masked blocks are
 * skipped, and inside the diagonal block each tile stops at its last visible key.
 */
#ifndef CK_ATTENTION_H
#define CK_ATTENTION_H

#include "tile.h"

enum { BLOCK = 64 };

typedef struct attention_shape {
    int64_t batch, context, heads, kv_heads, head_dim;
    int64_t row;   /* floats of a row of qkv */
    int64_t pitch; /* head_dim, rounded up to whole vectors */
    float scale;
} attention_shape;

INLINE attention_shape attention_shape_of(int64_t batch, int64_t context, int64_t heads,
                                          int64_t kv_heads, int64_t head_dim, float scale) {
    return (attention_shape){batch, context, heads, kv_heads, head_dim,
                             (heads + 2 * kv_heads) * head_dim, round_up(head_dim, VLEN), scale};
}

/* dst (n, pitch) = scale * rows of src, zeros from head_dim to pitch */
INLINE void copy_rows(float *dst, const float *src, int64_t stride, int64_t n, float scale,
                      const attention_shape *s) {
    for (int64_t i = 0; i < n; i++, dst += s->pitch, src += stride) {
        int64_t d = 0;
        for (; d + VLEN <= s->head_dim; d += VLEN) store(dst + d, load(src + d) * scale);
        if (d < s->head_dim) store(dst + d, load_n(src + d, s->head_dim - d) * scale);
    }
}

/* dst (head_dim, BLOCK) = transposed n rows of src, zeros beyond n */
INLINE void copy_transposed(float *dst, const float *src, int64_t stride, int64_t n,
                            const attention_shape *s) {
    for (int64_t d = 0; d < s->head_dim; d++)
        for (int64_t j = 0; j < BLOCK; j++)
            dst[d * BLOCK + j] = j < n ? src[j * stride + d] : 0.0f;
}

INLINE void tile_store(float *c, int64_t ldc, const int mr, const int nv, int add,
                       vf acc[MR][NV]) {
    UNROLL for (int i = 0; i < mr; i++) UNROLL for (int v = 0; v < nv; v++) {
        float *at = c + i * ldc + v * VLEN;
        store(at, add ? load(at) + acc[i][v] : acc[i][v]);
    }
}

/* `rows` <= MR rows of c = [c +] a b over `columns`, a whole number of vectors. */
static void row_product(float *c, int64_t ldc, int add, const float *a, int64_t a_rs,
                        int64_t a_cs, const float *b, int64_t ldb, int64_t rows,
                        int64_t columns, int64_t k) {
    vf acc[MR][NV];
    int64_t j = 0;
    if (rows == MR) {
        for (; j + NR <= columns; j += NR) {
            tile_product(acc, MR, NV, a, a_rs, a_cs, b + j, ldb, k);
            tile_store(c + j, ldc, MR, NV, add, acc);
        }
        for (; j < columns; j += VLEN) {
            tile_product(acc, MR, 1, a, a_rs, a_cs, b + j, ldb, k);
            tile_store(c + j, ldc, MR, 1, add, acc);
        }
        return;
    }
    for (; rows > 0; rows--, a += a_rs, c += ldc)
        for (j = 0; j < columns; j += VLEN) {
            tile_product(acc, 1, 1, a, a_rs, a_cs, b + j, ldb, k);
            tile_store(c + j, ldc, 1, 1, add, acc);
        }
}

/* How many of the keys from k0 on the query at position q sees, at most BLOCK. */
INLINE int64_t visible(int64_t q, int64_t k0) { return smaller(BLOCK, q + 1 - k0); }

/* scores (BLOCK, BLOCK) = q kT for `queries` rows from q0 and keys from k0; entries at or right
 * of the diagonal's last visible key in a tile are left unwritten or are to be masked. */
static void scores_product(float *scores, const float *q, const float *kT, int64_t queries,
                           int64_t q0, int64_t k0, const attention_shape *s) {
    for (int64_t i = 0; i < queries; i += MR) {
        int64_t rows = smaller(MR, queries - i);
        int64_t columns = round_up(visible(q0 + i + rows - 1, k0), VLEN);
        row_product(scores + i * BLOCK, BLOCK, 0, q + i * s->pitch, s->pitch, 1, kT, BLOCK, rows,
                    columns, s->head_dim);
    }
}

#endif
