/* attention_backward.c - gradients of causal attention, all three in one call.
 *
 *   p = exp(scale q k^T - lse);  dv = p^T dout;  dp = dout v^T
 *   ds = p (dp - sum_d dout out);  dq = scale ds k;  dk = scale ds^T q
 * p is computed again from lse, block by block. For one key head: blocks of keys ascending; for
 * each, its query heads ascending and their blocks of queries ascending; dk and dv are summed
 * over all of these, dq over the blocks of keys, always in that order. A team cuts
 * (batch, key head), which share nothing.
 */
#include "attention.h"

typedef struct backward_work {
    float *q, *dout, *k, *dk, *dv, *dq; /* (BLOCK, pitch); q and k are scaled */
    float *kT, *vT;                     /* (head_dim, BLOCK) */
    float *p, *ds;                      /* (BLOCK, BLOCK) */
    float *delta, *lse;                 /* (BLOCK) */
} backward_work;

static backward_work backward_layout(float *work, const attention_shape *s) {
    backward_work w;
    float **rows[] = {&w.q, &w.dout, &w.k, &w.dk, &w.dv, &w.dq};
    for (int i = 0; i < 6; i++, work += BLOCK * s->pitch) *rows[i] = work;
    w.kT = work;
    w.vT = w.kT + BLOCK * s->head_dim;
    w.p = w.vT + BLOCK * s->head_dim;
    w.ds = w.p + BLOCK * BLOCK;
    w.delta = w.ds + BLOCK * BLOCK;
    w.lse = w.delta + BLOCK;
    return w;
}

/* One row: p and ds from scores (in p) and dp (in ds), zeros from n to `columns`. */
INLINE void probability_row(float *p, float *ds, float lse, float delta, int64_t n,
                            int64_t columns) {
    for (int64_t j = 0; j < columns; j += VLEN) {
        vi seen = first_lanes(larger(0, smaller(VLEN, n - j)));
        vf e = zero_unless(seen, vector_exp(load(p + j) - lse));
        store(p + j, e);
        store(ds + j, zero_unless(seen, e * (load(ds + j) - delta)));
    }
}

/* dst (keys, pitch) += matrix^T rows: matrix (queries, BLOCK), rows (queries, pitch). Queries
 * that see none of a tile's keys are skipped. */
static void transposed_product(float *dst, const float *matrix, const float *rows,
                               int64_t queries, int64_t keys, int64_t q0, int64_t k0,
                               const attention_shape *s) {
    for (int64_t j = 0; j < keys; j += MR) {
        int64_t first = larger(0, k0 + j - q0);
        if (first >= queries) continue;
        row_product(dst + j * s->pitch, s->pitch, 1, matrix + first * BLOCK + j, 1, BLOCK,
                    rows + first * s->pitch, s->pitch, smaller(MR, keys - j), s->pitch,
                    queries - first);
    }
}

static void add_rows(float *dst, int64_t stride, const float *src, int64_t n, int add,
                     const attention_shape *s) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t d = 0; d < s->head_dim; d++) {
            float *at = dst + i * stride + d;
            *at = add ? *at + src[i * s->pitch + d] : src[i * s->pitch + d];
        }
}

/* One block of queries of one head against the block of keys in w. */
static void backward_queries(const backward_work *w, float *dq, const float *q,
                             const float *dout, const float *out, const float *lse, int64_t q0,
                             int64_t k0, const attention_shape *s) {
    int64_t queries = smaller(BLOCK, s->context - q0), keys = smaller(BLOCK, s->context - k0);
    int64_t out_row = s->heads * s->head_dim;
    copy_rows(w->q, q + q0 * s->row, s->row, queries, s->scale, s);
    copy_rows(w->dout, dout + q0 * out_row, out_row, queries, 1.0f, s);
    for (int64_t i = 0; i < queries; i++) {
        const float *o = out + (q0 + i) * out_row, *d = w->dout + i * s->pitch;
        vf sum = {0};
        for (int64_t j = 0; j < s->head_dim; j += VLEN) {
            int64_t left = s->head_dim - j;
            sum += load(d + j) * (left >= VLEN ? load(o + j) : load_n(o + j, left));
        }
        w->delta[i] = sum_lanes(sum);
    }
    scores_product(w->p, w->q, w->kT, queries, q0, k0, s);
    scores_product(w->ds, w->dout, w->vT, queries, q0, k0, s);
    for (int64_t i = 0; i < queries; i += MR) {
        int64_t rows = smaller(MR, queries - i), deepest = visible(q0 + i + rows - 1, k0);
        int64_t written = round_up(deepest, VLEN);
        for (int64_t r = i; r < i + rows; r++)
            probability_row(w->p + r * BLOCK, w->ds + r * BLOCK, lse[q0 + r], w->delta[r],
                            smaller(keys, visible(q0 + r, k0)), written);
        for (int64_t r = i; r < i + rows; r++)
            for (int64_t j = written; j < BLOCK; j++)
                w->p[r * BLOCK + j] = w->ds[r * BLOCK + j] = 0;
        row_product(w->dq + i * s->pitch, s->pitch, 0, w->ds + i * BLOCK, BLOCK, 1, w->k,
                    s->pitch, rows, s->pitch, smaller(keys, deepest));
    }
    add_rows(dq + q0 * s->row, s->row, w->dq, queries, k0 > 0, s);
    transposed_product(w->dv, w->p, w->dout, queries, keys, q0, k0, s);
    transposed_product(w->dk, w->ds, w->q, queries, keys, q0, k0, s);
}

/* All of one key head of one sequence: rows begin at qkv, dqkv, dout, out; lse at its heads. */
static void backward_head(float *dqkv, const float *dout, const float *out, const float *lse,
                          const float *qkv, int64_t kv_head, const attention_shape *s,
                          float *work) {
    backward_work w = backward_layout(work, s);
    int64_t group = s->heads / s->kv_heads, head_dim = s->head_dim;
    int64_t k_at = (s->heads + kv_head) * head_dim, v_at = k_at + s->kv_heads * head_dim;
    for (int64_t k0 = 0; k0 < s->context; k0 += BLOCK) {
        int64_t keys = smaller(BLOCK, s->context - k0);
        const float *k = qkv + k0 * s->row + k_at, *v = qkv + k0 * s->row + v_at;
        copy_rows(w.k, k, s->row, keys, s->scale, s);
        copy_transposed(w.kT, k, s->row, keys, s);
        copy_transposed(w.vT, v, s->row, keys, s);
        memset(w.dk, 0, (size_t)(2 * BLOCK * s->pitch) * sizeof(float)); /* and dv after it */
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
            for (int64_t q0 = k0; q0 < s->context; q0 += BLOCK)
                backward_queries(&w, dqkv + head * head_dim, qkv + head * head_dim,
                                 dout + head * head_dim, out + head * head_dim,
                                 lse + head * s->context, q0, k0, s);
        add_rows(dqkv + k0 * s->row + k_at, s->row, w.dk, keys, 0, s);
        add_rows(dqkv + k0 * s->row + v_at, s->row, w.dv, keys, 0, s);
    }
}

void CK(attention_backward)(float *dqkv, const float *dout, const float *out, const float *lse,
                            const float *qkv, int64_t batch, int64_t context, int64_t heads,
                            int64_t kv_heads, int64_t head_dim, float scale, void *work,
                            CK_TEAM) {
    attention_shape s = attention_shape_of(batch, context, heads, kv_heads, head_dim, scale);
    float *own = (float *)((char *)work + part * CK(attention_workspace)(context, head_dim));
    range r = team_share(batch * kv_heads, 1, part, parts);
    for (int64_t task = r.begin; task < r.end; task++) {
        int64_t b = task / kv_heads, tokens = b * context;
        backward_head(dqkv + tokens * s.row, dout + tokens * heads * head_dim,
                      out + tokens * heads * head_dim, lse + b * heads * context,
                      qkv + tokens * s.row, task % kv_heads, &s, own);
    }
}
