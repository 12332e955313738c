/* attention.c - causal attention, forward: out = softmax(scale q k^T, masked) v per head.
 *
 * For a block of queries, over blocks of keys in ascending order (online softmax, Milakov &
 * Gimelshein 2018):  m' = max(m, max s);  p = exp(s - m');  l = l exp(m - m') + sum p;
 *   out = out exp(m - m') + p v;  at the end out /= l, lse = m' + log l.
 * Saved for backward: lse (batch, heads, context), out. Query head h reads key head
 * h / (heads / kv_heads). A team cuts (batch, head, block of queries).
 */
#include "attention.h"

/* floats of workspace of each direction; see forward_block and backward_head for their use */
INLINE int64_t forward_floats(int64_t head_dim) {
    int64_t pitch = round_up(head_dim, VLEN);
    return BLOCK * (3 * pitch + head_dim + BLOCK) + 2 * BLOCK;
}
INLINE int64_t backward_floats(int64_t head_dim) {
    int64_t pitch = round_up(head_dim, VLEN);
    return BLOCK * (6 * pitch + 2 * head_dim + 2 * BLOCK) + 2 * BLOCK;
}

int64_t CK(attention_workspace)(int64_t context, int64_t head_dim) {
    (void)context; /* blocks are of fixed size */
    int64_t floats = larger(forward_floats(head_dim), backward_floats(head_dim));
    return round_up(floats, 16) * (int64_t)sizeof(float);
}

/* One row of scores to probabilities: updates the running max and sum, rescales out's row. */
INLINE void softmax_row(float *p, int64_t n, float *max, float *sum, float *out,
                        int64_t pitch) {
    vf m = set1(*max);
    for (int64_t j = 0; j < n; j += VLEN) {
        vf v = load(p + j);
        if (j + VLEN > n) {
            v = pick(first_lanes(n - j), v, set1(-__builtin_inff()));
            store(p + j, v);
        }
        m = maximum(m, v);
    }
    float new_max = max_lanes(m);
    vf total = {0};
    for (int64_t j = 0; j < n; j += VLEN) {
        vf e = vector_exp(load(p + j) - new_max);
        store(p + j, e);
        total += e;
    }
    float shrink = vector_exp(set1(*max - new_max))[0];
    *sum = *sum * shrink + sum_lanes(total);
    *max = new_max;
    if (shrink != 1.0f)
        for (int64_t d = 0; d < pitch; d += VLEN) store(out + d, load(out + d) * shrink);
}

typedef struct forward_work {
    float *q, *v, *out, *kT, *scores, *max, *sum;
} forward_work;

static forward_work forward_layout(float *work, const attention_shape *s) {
    forward_work w;
    w.q = work;
    w.v = w.q + BLOCK * s->pitch;
    w.out = w.v + BLOCK * s->pitch;
    w.kT = w.out + BLOCK * s->pitch;
    w.scores = w.kT + BLOCK * s->head_dim;
    w.max = w.scores + BLOCK * BLOCK;
    w.sum = w.max + BLOCK;
    return w;
}

/* `queries` rows from q0 against the keys from k0. */
static void forward_keys(const forward_work *w, const float *k, const float *v, int64_t queries,
                         int64_t q0, int64_t k0, const attention_shape *s) {
    int64_t keys = smaller(BLOCK, s->context - k0);
    copy_transposed(w->kT, k + k0 * s->row, s->row, keys, s);
    copy_rows(w->v, v + k0 * s->row, s->row, keys, 1.0f, s);
    scores_product(w->scores, w->q, w->kT, queries, q0, k0, s);
    for (int64_t i = 0; i < queries; i += MR) {
        int64_t rows = smaller(MR, queries - i), deepest = visible(q0 + i + rows - 1, k0);
        for (int64_t r = i; r < i + rows; r++) {
            int64_t n = visible(q0 + r, k0);
            softmax_row(w->scores + r * BLOCK, n, w->max + r, w->sum + r,
                        w->out + r * s->pitch, s->pitch);
            for (int64_t j = round_up(n, VLEN); j < deepest; j++) w->scores[r * BLOCK + j] = 0;
        }
        row_product(w->out + i * s->pitch, s->pitch, 1, w->scores + i * BLOCK, BLOCK, 1, w->v,
                    s->pitch, rows, s->pitch, deepest);
    }
}

static void forward_block(float *out, float *lse, const float *q, const float *k,
                          const float *v, int64_t q0, const attention_shape *s, float *work) {
    forward_work w = forward_layout(work, s);
    int64_t queries = smaller(BLOCK, s->context - q0), out_row = s->heads * s->head_dim;
    copy_rows(w.q, q + q0 * s->row, s->row, queries, s->scale, s);
    memset(w.out, 0, (size_t)(BLOCK * s->pitch) * sizeof(float));
    for (int64_t i = 0; i < queries; i++) {
        w.max[i] = -__builtin_inff();
        w.sum[i] = 0;
    }
    for (int64_t k0 = 0; k0 <= q0; k0 += BLOCK) forward_keys(&w, k, v, queries, q0, k0, s);
    for (int64_t i = 0; i < queries; i++) {
        float inverse = 1.0f / w.sum[i];
        for (int64_t d = 0; d < s->head_dim; d++)
            out[(q0 + i) * out_row + d] = w.out[i * s->pitch + d] * inverse;
        lse[q0 + i] = w.max[i] + scalar_log(w.sum[i]);
    }
}

void CK(attention_forward)(float *out, float *lse, const float *qkv, int64_t batch,
                           int64_t context, int64_t heads, int64_t kv_heads, int64_t head_dim,
                           float scale, void *work, CK_TEAM) {
    attention_shape s = attention_shape_of(batch, context, heads, kv_heads, head_dim, scale);
    float *own = (float *)((char *)work + part * CK(attention_workspace)(context, head_dim));
    int64_t blocks = (context + BLOCK - 1) / BLOCK, group = heads / kv_heads;
    range r = team_share(batch * heads * blocks, 1, part, parts);
    for (int64_t task = r.begin; task < r.end; task++) {
        int64_t block = task % blocks, head = task / blocks % heads, b = task / blocks / heads;
        const float *rows = qkv + b * context * s.row;
        const float *q = rows + head * head_dim;
        const float *k = rows + (heads + head / group) * head_dim;
        forward_block(out + (b * context * heads + head) * head_dim,
                      lse + (b * heads + head) * context, q, k, k + kv_heads * head_dim,
                      block * BLOCK, &s, own);
    }
}
