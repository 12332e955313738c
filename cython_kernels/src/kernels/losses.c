/* losses.c - softmax cross-entropy fused with its gradient, and mean squares, row by row.
 *
 *   p = exp(x - max) / sum exp(x - max)
 *   loss = log(sum exp(x - max)) - (x[target] - max); dlogits = scale (p - onehot(target))
 *   mse: loss = mean_j (x - t)^2, dx = scale (2 / width) (x - t)
 * Three passes over a row, which fits the second cache for vocabularies to 100,000; exp is
 * computed once and kept in dlogits until the sum is known.
 */
#include "kernel.h"

enum { STREAMS = 4 };

static float row_max(const float *x, int64_t n) {
    vf m[STREAMS];
    for (int s = 0; s < STREAMS; s++) m[s] = set1(-__builtin_inff());
    int64_t i = 0;
    for (; i + STREAMS * VLEN <= n; i += STREAMS * VLEN)
        for (int s = 0; s < STREAMS; s++) m[s] = maximum(m[s], load(x + i + s * VLEN));
    for (int s = 0; i + VLEN <= n; i += VLEN, s++) m[s] = maximum(m[s], load(x + i));
    float best = max_lanes(maximum(maximum(m[0], m[1]), maximum(m[2], m[3])));
    for (; i < n; i++) best = x[i] > best ? x[i] : best;
    return best;
}

/* `ways` vectors of exp(x - max), n floats of them, kept in e unless it is NULL; their sum. */
INLINE vf exp_terms(float *e, const float *x, float max, int64_t n, const int ways) {
    vf v[WAYS], sum = {0};
    EACH v[i] = load_n(x + i * VLEN, n - i * VLEN) - max;
    exp_each(v, ways);
    if (e) EACH store_n(e + i * VLEN, v[i], n - i * VLEN);
    if (n < VLEN) v[0] = zero_unless(first_lanes(n), v[0]);
    EACH sum += v[i];
    return sum;
}

static float row_exp_sum(float *e, const float *x, float max, int64_t n) {
    enum { STEP = WAYS * VLEN };
    vf sum = {0};
    int64_t i = 0;
    for (; i + STEP <= n; i += STEP) sum += exp_terms(e ? e + i : NULL, x + i, max, STEP, WAYS);
    for (; i < n; i += VLEN) sum += exp_terms(e ? e + i : NULL, x + i, max, n - i, 1);
    return sum_lanes(sum);
}

static void row_scale(float *x, float scale, int64_t n) {
    int64_t i = 0;
    for (; i + VLEN <= n; i += VLEN) store(x + i, load(x + i) * scale);
    for (; i < n; i++) x[i] *= scale;
}

void CK(cross_entropy)(float *losses, float *dlogits, const float *logits,
                       const int32_t *targets, int64_t rows, int64_t vocab, float scale,
                       CK_TEAM) {
    range r = team_share(rows, 1, part, parts);
    for (int64_t row = r.begin; row < r.end; row++) {
        const float *x = logits + row * vocab;
        float *dx = dlogits ? dlogits + row * vocab : NULL;
        int32_t target = targets[row];
        if (target < 0) {
            losses[row] = 0.0f;
            if (dx) memset(dx, 0, (size_t)vocab * sizeof(float));
            continue;
        }
        float max = row_max(x, vocab);
        float score = x[target] - max; /* before dlogits, which may be logits, is written */
        float sum = row_exp_sum(dx, x, max, vocab);
        losses[row] = scalar_log(sum) - score;
        if (dx) {
            row_scale(dx, scale / sum, vocab);
            dx[target] -= scale;
        }
    }
}

void CK(mse)(float *losses, float *dx, const float *x, const float *target, int64_t rows,
             int64_t width, float scale, CK_TEAM) {
    range r = team_share(rows, 1, part, parts);
    float slope = scale * 2.0f / (float)width;
    for (int64_t row = r.begin; row < r.end; row++) {
        int64_t at = row * width, i = 0;
        vf sum = {0};
        for (; i < width; i += VLEN) {
            int64_t n = width - i;
            vf d = load_n(x + at + i, n) - load_n(target + at + i, n);
            sum += d * d;
            store_n(dx + at + i, d * slope, n);
        }
        losses[row] = sum_lanes(sum) / (float)width;
    }
}
