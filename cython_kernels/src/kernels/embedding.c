/* embedding.c - token and learned position embedding, and rotary positions.
 *
 *   forward: out[b,t,:] = token_table[tokens[b,t],:] + position_table[t,:]
 *   weight:  dtoken_table[tokens[b,t],:] += dout[b,t,:], dposition_table[t,:] likewise, row by
 *            row in ascending (b, t): a team cuts columns, so no two parts share an element
 *   rope (Su et al. 2021), halves convention: (x_i, x_{i+h}) <- rotation by the angle of
 *            (position, i), h = head_dim / 2; the backward is the rotation by minus the angle.
 * Nothing is saved. Bound by memory.
 */
#include "kernel.h"

enum { COLUMNS = 16 }; /* a cache line of floats */

INLINE void add_row(float *out, const float *a, const float *b, int64_t n) {
    int64_t i = 0;
    for (; i + VLEN <= n; i += VLEN) store(out + i, load(a + i) + load(b + i));
    for (; i < n; i++) out[i] = a[i] + b[i];
}

void CK(embedding_forward)(float *out, const int32_t *tokens, const float *token_table,
                           const float *position_table, int64_t batch, int64_t context,
                           int64_t width, CK_TEAM) {
    range r = team_share(batch * context, 1, part, parts);
    for (int64_t row = r.begin; row < r.end; row++) {
        const float *token = token_table + tokens[row] * width;
        if (position_table)
            add_row(out + row * width, token, position_table + row % context * width, width);
        else
            memcpy(out + row * width, token, (size_t)width * sizeof(float));
    }
}

void CK(embedding_backward_weight)(float *dtoken_table, float *dposition_table,
                                   const float *dout, const int32_t *tokens, int64_t batch,
                                   int64_t context, int64_t width, CK_TEAM) {
    range r = team_share(width, COLUMNS, part, parts);
    int64_t n = r.end - r.begin;
    for (int64_t row = 0; row < batch * context; row++) {
        const float *d = dout + row * width + r.begin;
        float *token = dtoken_table + tokens[row] * width + r.begin;
        add_row(token, token, d, n);
        if (dposition_table) {
            float *position = dposition_table + row % context * width + r.begin;
            add_row(position, position, d, n);
        }
    }
}

void CK(rope)(float *x, const float *table, int64_t batch, int64_t context, int64_t width,
              int64_t heads, int64_t head_dim, float sign, CK_TEAM) {
    range r = team_share(batch * context, 1, part, parts);
    int64_t half = head_dim / 2;
    for (int64_t row = r.begin; row < r.end; row++) {
        const float *angle = table + row % context * head_dim;
        for (int64_t head = 0; head < heads; head++) {
            float *restrict low = x + row * width + head * head_dim, *restrict high = low + half;
            for (int64_t i = 0; i < half; i++) {
                float c = angle[2 * i], s = sign * angle[2 * i + 1];
                float a = low[i], b = high[i];
                low[i] = a * c - b * s;
                high[i] = b * c + a * s;
            }
        }
    }
}
