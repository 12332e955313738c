/* attention_backward.c - gradients of causal attention, all three in one call.
 *
 *   p = exp(scale q k^T - lse);  dv = p^T dout;  dp = dout v^T
 *   ds = p (dp - sum_d dout out);  dq = scale ds k;  dk = scale ds^T q
 * p is computed again from lse, block by block. For one key head, its query heads in ascending
 * order; for each, blocks of keys ascending and for these blocks of queries ascending: dk and dv
 * are summed over the blocks of queries, then over heads; dq over the blocks of keys. A team
 * cuts (batch, key head), which share nothing.
 */
#include "attention.h"

typedef struct backward_work {
    float *q, *dout, *dq; /* a head's rows (context, pitch); q is scaled */
    float *qT, *doutT;    /* turned, in blocks */
    float *delta;         /* (context) sum_d dout out */
    float *k, *dk, *dv;   /* a block of keys (BLOCK, pitch); k is scaled */
    float *kT, *vT;       /* (head_dim, BLOCK) */
    float *p, *ds;        /* (BLOCK, BLOCK) */
    int64_t floats;       /* of all */
} backward_work;

static backward_work backward_layout(float *work, const attention_shape *s) {
    backward_work w;
    int64_t used = 0;
    w.q = claim(work, &used, s->padded * s->pitch);
    w.dout = claim(work, &used, s->padded * s->pitch);
    w.dq = claim(work, &used, s->padded * s->pitch);
    w.qT = claim(work, &used, s->padded * s->head_dim);
    w.doutT = claim(work, &used, s->padded * s->head_dim);
    w.delta = claim(work, &used, s->padded);
    w.k = claim(work, &used, BLOCK * s->pitch);
    w.dk = claim(work, &used, BLOCK * s->pitch);
    w.dv = claim(work, &used, BLOCK * s->pitch);
    w.kT = claim(work, &used, BLOCK * s->head_dim);
    w.vT = claim(work, &used, BLOCK * s->head_dim);
    w.p = claim(work, &used, BLOCK * BLOCK);
    w.ds = claim(work, &used, BLOCK * BLOCK);
    w.floats = used;
    return w;
}

int64_t CK(attention_backward_floats)(int64_t context, int64_t past, int64_t head_dim) {
    attention_shape s = attention_shape_of(1, context, past, 1, 1, head_dim, 1.0f);
    return backward_layout(NULL, &s).floats;
}

/* `ways` vectors of p and ds from scores (in p) and dp (in ds); zeros from key n on. */
INLINE void probabilities(float *p, float *ds, float lse, float delta, int64_t n,
                          const int ways) {
    vf e[WAYS], d[WAYS];
    EACH e[i] = load(p + i * VLEN) - lse;
    exp_each(e, ways);
    EACH d[i] = e[i] * (load(ds + i * VLEN) - delta);
    if (n < ways * VLEN)
        EACH {
            vi seen = first_lanes(larger(0, n - i * VLEN));
            e[i] = zero_unless(seen, e[i]);
            d[i] = zero_unless(seen, d[i]);
        }
    EACH store(p + i * VLEN, e[i]);
    EACH store(ds + i * VLEN, d[i]);
}

/* One row, of which n keys are seen. */
INLINE void probability_row(float *p, float *ds, float lse, float delta, int64_t n) {
    enum { STEP = WAYS * VLEN < BLOCK ? WAYS * VLEN : BLOCK };
    for (int64_t j = 0; j < BLOCK; j += STEP)
        probabilities(p + j, ds + j, lse, delta, n - j, STEP / VLEN);
}

/* dst (keys, pitch) += matrix^T rows: matrix (queries, BLOCK), rows (queries, pitch). Queries
 * that see none of a tile's keys are skipped. */
static void add_transposed(float *dst, const float *matrix, const float *rows, int64_t queries,
                           int64_t q0, key_block k, const attention_shape *s) {
    for (int64_t j = 0; j < k.count; j += MR) {
        int64_t first = larger(0, k.first + j - q0);
        if (first < queries)
            turned_product(dst + j * s->pitch, s->pitch, 1, matrix + first * BLOCK + j,
                           rows + first * s->pitch, s->pitch, smaller(MR, k.count - j), s->pitch,
                           queries - first);
    }
}

/* The block of queries from q0 against the block of keys k, which is in w. */
static void backward_block(const backward_work *w, const float *lse, int64_t q0, key_block k,
                           const attention_shape *s) {
    int64_t queries = smaller(BLOCK, s->context - q0);
    float *q = w->q + q0 * s->pitch, *dout = w->dout + q0 * s->pitch;
    float *dq = w->dq + q0 * s->pitch;
    scores_product(w->p, w->qT + q0 * s->head_dim, w->kT, queries, q0, k, s);
    scores_product(w->ds, w->doutT + q0 * s->head_dim, w->vT, queries, q0, k, s);
    for (int64_t i = 0; i < queries; i += MR) {
        int64_t rows = smaller(MR, queries - i), deepest = visible(q0 + i + rows - 1, k);
        for (int64_t r = i; r < i + rows; r++)
            probability_row(w->p + r * BLOCK, w->ds + r * BLOCK, lse[q0 + r], w->delta[q0 + r],
                            visible(q0 + r, k));
        rows_product(dq + i * s->pitch, s->pitch, 1, w->ds + i * BLOCK, w->k, s->pitch, rows,
                     s->pitch, deepest);
    }
    add_transposed(w->dv, w->p, dout, queries, q0, k, s);
    add_transposed(w->dk, w->ds, q, queries, q0, k, s);
}

/* Copies of one query head, and its delta. */
static void prepare_queries(const backward_work *w, const float *q, const float *dout,
                            const float *out, const attention_shape *s) {
    int64_t out_row = s->heads * s->head_dim;
    copy_rows(w->q, q, s->row, s->context, s->scale, s);
    copy_rows(w->dout, dout, out_row, s->context, 1.0f, s);
    turn_rows(w->qT, w->q, s->pitch, s->context, s);
    turn_rows(w->doutT, w->dout, s->pitch, s->context, s);
    memset(w->dq, 0, (size_t)(s->padded * s->pitch) * sizeof(float));
    for (int64_t i = 0; i < s->context; i++) {
        const float *o = out + i * out_row, *d = w->dout + i * s->pitch;
        vf sum = {0};
        for (int64_t j = 0; j < s->head_dim; j += VLEN) {
            int64_t left = s->head_dim - j;
            sum += load(d + j) * (left >= VLEN ? load(o + j) : load_n(o + j, left));
        }
        w->delta[i] = sum_lanes(sum);
    }
}

/* dst rows (row floats apart) = or += rows of src */
static void put_rows(float *dst, const float *src, int64_t n, int add,
                     const attention_shape *s) {
    for (int64_t i = 0; i < n; i++, dst += s->row, src += s->pitch)
        for (int64_t d = 0; d < s->head_dim; d++) dst[d] = add ? dst[d] + src[d] : src[d];
}

/* One slice's keys, k, v and dk, dv its first floats; `earlier` than the queries', or theirs. */
static void backward_keys(float *dk, float *dv, const float *k, const float *v, const float *lse,
                          int earlier, int add, const attention_shape *s,
                          const backward_work *w) {
    for (int64_t k0 = 0; k0 < s->context; k0 += BLOCK) {
        int64_t keys = smaller(BLOCK, s->context - k0), at = k0 * s->row;
        copy_rows(w->k, k + at, s->row, keys, s->scale, s);
        turn_rows(w->kT, k + at, s->row, keys, s);
        turn_rows(w->vT, v + at, s->row, keys, s);
        memset(w->dk, 0, (size_t)(2 * BLOCK * s->pitch) * sizeof(float)); /* and dv after it */
        for (int64_t q0 = earlier ? 0 : k0; q0 < s->context; q0 += BLOCK)
            backward_block(w, lse, q0, key_block_of(k0, q0, earlier, s), s);
        put_rows(dk + at, w->dk, keys, add, s);
        put_rows(dv + at, w->dv, keys, add, s);
    }
}

/* One query head of one sequence: q and dq are its first floats in the slice's qkv and dqkv, k
 * and dk those of its key head in the first slice's; `add` where dk and dv hold something. */
static void backward_head(float *dq, float *dk, const float *q, const float *k,
                          const float *dout, const float *out, const float *lse, int add,
                          const attention_shape *s, const backward_work *w) {
    int64_t stride = s->batch * s->context * s->row, values = s->kv_heads * s->head_dim;
    prepare_queries(w, q, dout, out, s);
    for (int64_t slice = 0; slice <= s->past; slice++, dk += stride, k += stride)
        backward_keys(dk, dk + values, k, k + values, lse, slice < s->past, add, s, w);
    put_rows(dq, w->dq, s->context, 0, s);
}

void CK(attention_backward)(float *dqkv, const float *dout, const float *out, const float *lse,
                            const float *qkv, int64_t batch, int64_t context, int64_t past,
                            int64_t heads, int64_t kv_heads, int64_t head_dim, float scale,
                            int accumulate, void *work, CK_TEAM) {
    attention_shape s =
        attention_shape_of(batch, context, past, heads, kv_heads, head_dim, scale);
    int64_t own = part * CK(attention_workspace)(context, past, head_dim);
    backward_work w = backward_layout((float *)((char *)work + own), &s);
    int64_t group = heads / kv_heads;
    range r = team_share(batch * kv_heads, 1, part, parts);
    for (int64_t task = r.begin; task < r.end; task++) {
        int64_t b = task / kv_heads, kv_head = task % kv_heads;
        int64_t k = b * context * s.row + (heads + kv_head) * head_dim;
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
            int64_t q = (past * batch + b) * context * s.row + head * head_dim;
            int64_t o = (b * context * heads + head) * head_dim;
            backward_head(dqkv + q, dqkv + k, qkv + q, qkv + k, dout + o, out + o,
                          lse + (b * heads + head) * context,
                          accumulate || head > kv_head * group, &s, &w);
        }
    }
}
