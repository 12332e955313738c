/* gemm.c - c = [c +] a b [+ bias] [+ residual], all of linear layers' three products.
 *
 * Blocked as in BLIS (Van Zee & van de Geijn 2015): b is packed in panels of NR columns and a
 * block of a in panels of MR rows, both zero-padded, so that the tile product reads both with
 * unit stride. Loops, outermost first: NC columns of b, KC of k, MC rows of a, NR columns, MR
 * rows; the panel of b stays in the first cache, the block of a in the second. KC depends on k
 * and the ISA alone, and partial sums of one element are added in ascending k, then bias, then
 * residual: the same bits for any cut of m and n. A team cuts tiles of rows or of columns.
 */
#include "pack.h"
#include "tile.h"

enum { KC = 384, MC = 144 / MR * MR, NC = 64 * NR };

typedef struct epilogue {
    int accumulate;
    const float *bias, *residual; /* at this tile's first element, or NULL */
} epilogue;

/* k is cut into equal blocks of at most KC. */
INLINE int64_t k_block(int64_t k) {
    int64_t blocks = (k + KC - 1) / KC;
    return blocks ? (k + blocks - 1) / blocks : 1;
}

INLINE int64_t packed_a_floats(int64_t m, int64_t kc) {
    return round_up(smaller(MC, round_up(m, MR)) * kc + PACK_SLACK, 16);
}

int64_t CK(gemm_workspace)(int64_t m, int64_t n, int64_t k) {
    int64_t kc = k_block(k);
    int64_t b = smaller(NC, round_up(n, NR)) * kc + PACK_SLACK;
    return (packed_a_floats(m, kc) + round_up(b, 16)) * (int64_t)sizeof(float);
}

/* An incomplete tile's sums (MR, NR): as in tile, element by element. */
static __attribute__((noinline)) void edge(float *c, int64_t ldc, const float *sums,
                                           int64_t rows, int64_t columns, const epilogue *e) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            float sum = sums[i * NR + j];
            if (e->accumulate) sum = c[i * ldc + j] + sum;
            if (e->bias) sum += e->bias[j];
            if (e->residual) sum += e->residual[i * ldc + j];
            c[i * ldc + j] = sum;
        }
}

/* One tile of c; rows or columns may be fewer than MR, NR. */
static void tile(float *c, int64_t ldc, const float *a, const float *b, int64_t rows,
                 int64_t columns, int64_t k, const epilogue *e) {
    vf acc[MR][NV];
    tile_product(acc, MR, NV, a, 1, MR, b, NR, k);
    if (rows == MR && columns == NR) {
        UNROLL for (int i = 0; i < MR; i++) {
            UNROLL for (int v = 0; v < NV; v++) {
                int64_t at = i * ldc + v * VLEN;
                vf sum = acc[i][v];
                if (e->accumulate) sum = load(c + at) + sum;
                if (e->bias) sum += load(e->bias + v * VLEN);
                if (e->residual) sum += load(e->residual + at);
                store(c + at, sum);
            }
        }
        return;
    }
    float sums[MR * NR];
    UNROLL for (int i = 0; i < MR; i++)
        UNROLL for (int v = 0; v < NV; v++)
            store(sums + i * NR + v * VLEN, acc[i][v]);
    edge(c, ldc, sums, rows, columns, e);
}

/* All tiles of packed a (m rows) times packed b (n columns). */
static void block(float *c, int64_t ldc, const float *a, const float *b, int64_t m, int64_t n,
                  int64_t k, const epilogue *e) {
    for (int64_t j = 0; j < n; j += NR)
        for (int64_t i = 0; i < m; i += MR) {
            int64_t at = i * ldc + j;
            epilogue t = {e->accumulate, e->bias ? e->bias + j : NULL,
                          e->residual ? e->residual + at : NULL};
            tile(c + at, ldc, a + i * k, b + j * k, smaller(MR, m - i), smaller(NR, n - j), k,
                 &t);
        }
}

static void product(float *c, int64_t ldc, const float *a, int64_t a_rs, int64_t a_cs,
                    const float *b, int64_t b_rs, int64_t b_cs, const epilogue *e, int64_t m,
                    int64_t n, int64_t k, float *work) {
    int64_t kc = k_block(k);
    float *packed_a = work, *packed_b = work + packed_a_floats(m, kc);
    for (int64_t jc = 0; jc < n; jc += NC) {
        int64_t columns = smaller(NC, n - jc), pc = 0;
        do { /* once even if k is 0: c is then bias + residual */
            int64_t depth = smaller(kc, k - pc);
            int last = pc + depth == k;
            pack(packed_b, NR, b + pc * b_rs + jc * b_cs, b_cs, b_rs, columns, depth);
            for (int64_t ic = 0; ic < m; ic += MC) {
                int64_t rows = smaller(MC, m - ic), at = ic * ldc + jc;
                epilogue t = {e->accumulate || pc > 0,
                              last && e->bias ? e->bias + jc : NULL,
                              last && e->residual ? e->residual + at : NULL};
                pack(packed_a, MR, a + ic * a_rs + pc * a_cs, a_rs, a_cs, rows, depth);
                block(c + at, ldc, packed_a, packed_b, rows, columns, depth, &t);
            }
            pc += depth;
        } while (pc < k);
    }
}

void CK(gemm)(float *c, int64_t ldc, const float *a, int64_t a_rs, int64_t a_cs, const float *b,
              int64_t b_rs, int64_t b_cs, const float *bias, const float *residual, int64_t m,
              int64_t n, int64_t k, int accumulate, void *work, CK_TEAM) {
    int by_rows = (m + MR - 1) / MR >= (n + NR - 1) / NR;
    range r = by_rows ? team_share(m, MR, part, parts) : team_share(n, NR, part, parts);
    int64_t i = by_rows ? r.begin : 0, j = by_rows ? 0 : r.begin;
    epilogue e = {accumulate, bias ? bias + j : NULL, residual ? residual + i * ldc + j : NULL};
    float *own = (float *)((char *)work + part * CK(gemm_workspace)(m, n, k));
    product(c + i * ldc + j, ldc, a + i * a_rs, a_rs, a_cs, b + j * b_cs, b_rs, b_cs, &e,
            by_rows ? r.end - r.begin : m, by_rows ? n : r.end - r.begin, k, own);
}

/* Columns in registers, rows ascending; the sums of 128 rows at a time are added to db. */
void CK(bias_backward)(float *db, const float *dout, int64_t rows, int64_t width, CK_TEAM) {
    enum { COLUMNS = 4 * VLEN, ROWS = 128 };
    range r = team_share(width, COLUMNS, part, parts);
    for (int64_t j = r.begin; j < r.end; j += COLUMNS)
        for (int64_t first = 0; first < rows; first += ROWS) {
            int64_t last = smaller(rows, first + ROWS), columns = smaller(COLUMNS, r.end - j);
            vf sum[4] = {{0}};
            for (int64_t i = first; i < last; i++)
                for (int64_t v = 0; v * VLEN < columns; v++) {
                    const float *d = dout + i * width + j + v * VLEN;
                    int64_t left = columns - v * VLEN;
                    sum[v] += left >= VLEN ? load(d) : load_n(d, left);
                }
            for (int64_t c = 0; c < columns; c++) db[j + c] += sum[c / VLEN][c % VLEN];
        }
}
