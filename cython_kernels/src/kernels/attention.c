/* attention.c - causal attention, forward: out = softmax(scale q k^T, masked) v per head.
 *
 * For a block of queries, over blocks of keys in ascending order (online softmax, Milakov &
 * Gimelshein 2018):  m' = max(m, max s);  p = exp(s - m');  l = l exp(m - m') + sum p;
 *   out = out exp(m - m') + p v;  at the end out /= l, lse = m' + log l.
 * Saved for backward: lse (batch, heads, context), out. Query head h reads key head
 * h / (heads / kv_heads), whose keys and values are copied once for all its queries. A team
 * cuts (batch, head, block of queries).
 */
#include "attention.h"

typedef struct forward_work {
    float *kT, *v;             /* a key head's keys, turned, and values */
    float *q, *qT, *out;       /* a block of queries, scaled; its output */
    float *scores, *max, *sum; /* (BLOCK, BLOCK), (BLOCK), (BLOCK) */
    int64_t floats;            /* of all */
} forward_work;

static forward_work forward_layout(float *work, const attention_shape *s) {
    forward_work w;
    int64_t used = 0;
    w.kT = claim(work, &used, (s->past + 1) * s->padded * s->head_dim);
    w.v = claim(work, &used, (s->past + 1) * s->padded * s->pitch);
    w.q = claim(work, &used, BLOCK * s->pitch);
    w.qT = claim(work, &used, BLOCK * s->head_dim);
    w.out = claim(work, &used, BLOCK * s->pitch);
    w.scores = claim(work, &used, BLOCK * BLOCK);
    w.max = claim(work, &used, BLOCK);
    w.sum = claim(work, &used, BLOCK);
    w.floats = used;
    return w;
}

int64_t CK(attention_workspace)(int64_t context, int64_t past, int64_t head_dim) {
    attention_shape s = attention_shape_of(1, context, past, 1, 1, head_dim, 1.0f);
    int64_t forward = forward_layout(NULL, &s).floats;
    int64_t floats = larger(forward, CK(attention_backward_floats)(context, past, head_dim));
    return round_up(floats, 16) * (int64_t)sizeof(float);
}

/* The largest of a row's n scores, masked to -inf up to a whole number of vectors. */
INLINE float mask_and_max(float *p, int64_t n) {
    int64_t last = round_up(n, VLEN) - VLEN; /* the vector that holds the last visible key */
    vf m = pick(first_lanes(n - last), load(p + last), set1(-__builtin_inff()));
    store(p + last, m);
    for (int64_t j = 0; j < last; j += VLEN) m = maximum(m, load(p + j));
    return max_lanes(m);
}

/* Scores to exp(score - max), zeros beyond n; their sum. */
INLINE float exp_and_sum(float *p, int64_t n, float max) {
    vf total = {0};
    int64_t j = 0;
    for (; j + (WAYS - 1) * VLEN < n; j += WAYS * VLEN) {
        vf e[WAYS];
        UNROLL for (int i = 0; i < WAYS; i++) e[i] = load(p + j + i * VLEN) - max;
        exp_each(e, WAYS);
        UNROLL for (int i = 0; i < WAYS; i++) store(p + j + i * VLEN, e[i]);
        total += (e[0] + e[1]) + (e[2] + e[3]);
    }
    for (; j < n; j += VLEN) {
        vf e = vector_exp(load(p + j) - max);
        store(p + j, e);
        total += e;
    }
    for (; j < BLOCK; j += VLEN) store(p + j, (vf){0});
    return sum_lanes(total);
}

/* Scores of a block to probabilities, in passes over its rows that do not wait for each other;
 * updates the rows' running max and sum, and rescales their output. */
static void softmax_block(const forward_work *w, int64_t queries, int64_t q0, key_block k,
                          int64_t pitch) {
    float next[BLOCK] = {0}, shrink[BLOCK];
    for (int64_t r = 0; r < queries; r++) {
        float max = mask_and_max(w->scores + r * BLOCK, visible(q0 + r, k));
        next[r] = max > w->max[r] ? max : w->max[r];
    }
    for (int64_t r = 0; r < BLOCK; r += VLEN)
        store(shrink + r, vector_exp(load(w->max + r) - load(next + r)));
    for (int64_t r = 0; r < queries; r++) {
        float sum = exp_and_sum(w->scores + r * BLOCK, visible(q0 + r, k), next[r]);
        w->sum[r] = w->sum[r] * shrink[r] + sum;
        w->max[r] = next[r];
    }
    for (int64_t r = 0; r < queries; r++)
        for (int64_t d = 0; d < pitch; d += VLEN) {
            float *out = w->out + r * pitch + d;
            store(out, load(out) * shrink[r]);
        }
}

/* `queries` rows from q0 against the keys k, which were copied to place `at`. */
static void forward_keys(const forward_work *w, int64_t queries, int64_t q0, key_block k,
                         int64_t at, const attention_shape *s) {
    const float *kT = w->kT + at * s->head_dim, *v = w->v + at * s->pitch;
    scores_product(w->scores, w->qT, kT, queries, q0, k, s);
    softmax_block(w, queries, q0, k, s->pitch);
    for (int64_t i = 0; i < queries; i += MR) {
        int64_t rows = smaller(MR, queries - i);
        rows_product(w->out + i * s->pitch, s->pitch, 1, w->scores + i * BLOCK, v, s->pitch,
                     rows, s->pitch, visible(q0 + i + rows - 1, k));
    }
}

static void forward_block(float *out, float *lse, const float *q, int64_t q0,
                          const attention_shape *s, const forward_work *w) {
    int64_t queries = smaller(BLOCK, s->context - q0), out_row = s->heads * s->head_dim;
    copy_rows(w->q, q + q0 * s->row, s->row, queries, s->scale, s);
    turn_rows(w->qT, w->q, s->pitch, queries, s);
    memset(w->out, 0, (size_t)(BLOCK * s->pitch) * sizeof(float));
    for (int64_t i = 0; i < BLOCK; i++) {
        w->max[i] = -__builtin_inff();
        w->sum[i] = 0;
    }
    for (int64_t slice = 0; slice <= s->past; slice++) {
        int earlier = slice < s->past;
        int64_t last = earlier ? s->context - 1 : q0;
        for (int64_t k0 = 0; k0 <= last; k0 += BLOCK)
            forward_keys(w, queries, q0, key_block_of(k0, q0, earlier, s),
                         slice * s->padded + k0, s);
    }
    for (int64_t i = 0; i < queries; i++) {
        float inverse = 1.0f / w->sum[i];
        for (int64_t d = 0; d < s->head_dim; d++)
            out[(q0 + i) * out_row + d] = w->out[i * s->pitch + d] * inverse;
        lse[q0 + i] = w->max[i] + scalar_log(w->sum[i]);
    }
}

/* A key head's keys and values of all slices; those of one slice begin at a whole block. */
static void copy_keys(const forward_work *w, const float *k, const float *v,
                      const attention_shape *s) {
    int64_t stride = s->batch * s->context * s->row;
    for (int64_t slice = 0; slice <= s->past; slice++) {
        int64_t at = slice * s->padded;
        turn_rows(w->kT + at * s->head_dim, k + slice * stride, s->row, s->context, s);
        copy_rows(w->v + at * s->pitch, v + slice * stride, s->row, s->context, 1.0f, s);
    }
}

void CK(attention_forward)(float *out, float *lse, const float *qkv, int64_t batch,
                           int64_t context, int64_t past, int64_t heads, int64_t kv_heads,
                           int64_t head_dim, float scale, void *work, CK_TEAM) {
    attention_shape s =
        attention_shape_of(batch, context, past, heads, kv_heads, head_dim, scale);
    int64_t own = part * CK(attention_workspace)(context, past, head_dim);
    forward_work w = forward_layout((float *)((char *)work + own), &s);
    int64_t blocks = s.padded / BLOCK, group = heads / kv_heads, copied = -1;
    range r = team_share(batch * heads * blocks, 1, part, parts);
    for (int64_t task = r.begin; task < r.end; task++) {
        int64_t block = task % blocks, head = task / blocks % heads, b = task / blocks / heads;
        const float *rows = qkv + (past * batch + b) * context * s.row;
        const float *k = qkv + b * context * s.row + (heads + head / group) * head_dim;
        if (copied != task / blocks / group) {
            copied = task / blocks / group; /* the key head, counted over the batch */
            copy_keys(&w, k, k + kv_heads * head_dim, &s);
        }
        forward_block(out + (b * context * heads + head) * head_dim,
                      lse + (b * heads + head) * context, rows + head * head_dim, block * BLOCK,
                      &s, &w);
    }
}
