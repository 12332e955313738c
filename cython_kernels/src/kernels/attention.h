/* attention.h - blocks and small products shared by attention's forward and backward.
 *
 * A block of BLOCK queries meets one block of BLOCK keys at a time (Dao et al. 2022), so memory
 * is linear in context. A head's rows are first copied into the workspace, padded to `pitch`
 * floats, a whole number of vectors, or turned, so that every product below runs along
 * contiguous vectors; masked blocks are skipped, and in the diagonal block each tile stops at
 * its last visible key.
 */
#ifndef CK_ATTENTION_H
#define CK_ATTENTION_H

#include "tile.h"
#include "transpose.h"

enum { BLOCK = 64 };

/* attention_backward.c: floats of workspace that the backward takes */
int64_t CK(attention_backward_floats)(int64_t context, int64_t past, int64_t head_dim);

typedef struct attention_shape {
    int64_t batch, context, past, heads, kv_heads, head_dim; /* context: of one slice */
    int64_t row;    /* floats of a row of qkv */
    int64_t pitch;  /* head_dim, rounded up to whole vectors */
    int64_t padded; /* context, rounded up to whole blocks */
    float scale;
} attention_shape;

INLINE attention_shape attention_shape_of(int64_t batch, int64_t context, int64_t past,
                                          int64_t heads, int64_t kv_heads, int64_t head_dim,
                                          float scale) {
    return (attention_shape){batch,
                             context,
                             past,
                             heads,
                             kv_heads,
                             head_dim,
                             (heads + 2 * kv_heads) * head_dim,
                             round_up(head_dim, VLEN),
                             round_up(context, BLOCK),
                             scale};
}

/* The next `floats` floats of work; NULL if only `used`, the size, is wanted. */
INLINE float *claim(float *work, int64_t *used, int64_t floats) {
    float *at = work ? work + *used : NULL;
    *used += floats;
    return at;
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

/* dst: for each BLOCK rows of src a block (head_dim, BLOCK), turned; zeros beyond n rows */
INLINE void turn_rows(float *dst, const float *src, int64_t stride, int64_t n,
                      const attention_shape *s) {
    for (int64_t i0 = 0; i0 < n; i0 += BLOCK, dst += s->head_dim * BLOCK) {
        int64_t rows = smaller(BLOCK, n - i0), i = 0;
        for (; i + 8 <= rows; i += 8) {
            const float *from = src + (i0 + i) * stride;
            int64_t d = 0;
            for (; d + 8 <= s->head_dim; d += 8)
                transpose_8x8(dst + d * BLOCK + i, BLOCK, from + d, stride);
            for (; d < s->head_dim; d++)
                for (int64_t j = 0; j < 8; j++) dst[d * BLOCK + i + j] = from[j * stride + d];
        }
        for (; i < BLOCK; i++)
            for (int64_t d = 0; d < s->head_dim; d++)
                dst[d * BLOCK + i] = i < rows ? src[(i0 + i) * stride + d] : 0.0f;
    }
}

/* mr rows of c = [c +] a b over `columns`, a whole number of vectors */
INLINE void strip(float *c, int64_t ldc, int add, const int mr, const float *a, int64_t a_rs,
                  int64_t a_cs, const float *b, int64_t ldb, int64_t columns, int64_t k) {
    vf acc[MR][NV];
    int64_t j = 0;
    for (; j + NR <= columns; j += NR) {
        tile_product(acc, mr, NV, a, a_rs, a_cs, b + j, ldb, k);
        UNROLL for (int i = 0; i < mr; i++) UNROLL for (int v = 0; v < NV; v++) {
            float *at = c + i * ldc + j + v * VLEN;
            store(at, add ? load(at) + acc[i][v] : acc[i][v]);
        }
    }
    for (; j < columns; j += VLEN) {
        tile_product(acc, mr, 1, a, a_rs, a_cs, b + j, ldb, k);
        UNROLL for (int i = 0; i < mr; i++) {
            float *at = c + i * ldc + j;
            store(at, add ? load(at) + acc[i][0] : acc[i][0]);
        }
    }
}

INLINE void strips(float *c, int64_t ldc, int add, const float *a, int64_t a_rs, int64_t a_cs,
                   const float *b, int64_t ldb, int64_t rows, int64_t columns, int64_t k) {
#define STRIP(n)                                                                               \
    if (rows >= n) {                                                                           \
        strip(c, ldc, add, n, a, a_rs, a_cs, b, ldb, columns, k);                              \
        rows -= n, a += n * a_rs, c += n * ldc;                                                \
    }
    STRIP(MR)
#if MR > 8
    STRIP(8)
#endif
    STRIP(4)
    STRIP(2)
    STRIP(1)
#undef STRIP
}

/* `rows` <= MR rows of c = [c +] a b; a is (rows, BLOCK) of which k columns are read */
static void rows_product(float *c, int64_t ldc, int add, const float *a, const float *b,
                         int64_t ldb, int64_t rows, int64_t columns, int64_t k) {
    strips(c, ldc, add, a, BLOCK, 1, b, ldb, rows, columns, k);
}

/* the same with a turned: (k, BLOCK) of which `rows` columns are read */
static void turned_product(float *c, int64_t ldc, int add, const float *a, const float *b,
                           int64_t ldb, int64_t rows, int64_t columns, int64_t k) {
    strips(c, ldc, add, a, 1, BLOCK, b, ldb, rows, columns, k);
}

/* The keys of one block: `count` from position `first` on. Those of an earlier slice lie
 * before every query, so their position is given as BLOCK below the queries'. */
typedef struct key_block {
    int64_t first, count;
} key_block;

INLINE key_block key_block_of(int64_t k0, int64_t q0, int earlier, const attention_shape *s) {
    return (key_block){earlier ? q0 - BLOCK : k0, smaller(BLOCK, s->context - k0)};
}

/* How many of a block's keys the query at position q sees. */
INLINE int64_t visible(int64_t q, key_block k) { return smaller(k.count, q + 1 - k.first); }

/* scores (BLOCK, BLOCK) = q kT, both turned, for `queries` rows from q0 and the keys k; of a
 * tile of MR rows, only the vectors up to its last visible key are written. */
static void scores_product(float *scores, const float *qT, const float *kT, int64_t queries,
                           int64_t q0, key_block k, const attention_shape *s) {
    for (int64_t i = 0; i < queries; i += MR) {
        int64_t rows = smaller(MR, queries - i);
        int64_t columns = round_up(visible(q0 + i + rows - 1, k), VLEN);
        turned_product(scores + i * BLOCK, BLOCK, 0, qT + i, kT, BLOCK, rows, columns,
                       s->head_dim);
    }
}

#endif
