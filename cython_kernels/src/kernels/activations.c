/* activations.c - ReLU, GELU, SwiGLU and addition, element by element.
 *
 * gelu (tanh form, Hendrycks & Gimpel 2016): u = sqrt(2/pi) (x + 0.044715 x^3),
 *   out = x (1 + tanh u) / 2 = x s(2u), s the logistic function;
 *   dx = dout (s + x s (1 - s) 2u'), u' = sqrt(2/pi) (1 + 0.134145 x^2).
 * swiglu (Shazeer 2020): out = g s(g) up; dup = dout g s(g); dg = dout up (s + g s (1 - s)).
 * Nothing is saved but the inputs. relu and add are bound by memory, the others by the about 30
 * operations of an exp and a division per vector.
 */
#include "kernel.h"

enum { GRAIN = 1024 }; /* elements: a part's share starts on its own cache lines */

/* Every function below takes `ways` vectors at once (vec.h, exp_each) and leaves its result in
 * the first argument. */
INLINE void relu(vf *x, const int ways) { /* NaN passes */
    EACH x[i] = zero_unless(~(x[i] <= 0.0f), x[i]);
}
INLINE void relu_slope(vf *dout, const vf *x, const int ways) {
    EACH dout[i] = zero_unless(~(x[i] <= 0.0f), dout[i]);
}
INLINE void sigmoid(vf *x, const int ways) {
    vf slope[WAYS];
    sigmoid_each(x, slope, ways);
}
INLINE void gelu(vf *x, const int ways) {
    vf s[WAYS];
    EACH s[i] = x[i] * (1.5957691216057308f + 0.07135481282553125f * x[i] * x[i]);
    sigmoid(s, ways);
    EACH x[i] = x[i] * s[i];
}
INLINE void gelu_slope(vf *dout, const vf *x, const int ways) {
    vf s[WAYS], slope[WAYS], square[WAYS];
    EACH square[i] = x[i] * x[i];
    EACH s[i] = x[i] * (1.5957691216057308f + 0.07135481282553125f * square[i]);
    sigmoid_each(s, slope, ways);
    EACH square[i] = 1.5957691216057308f + 0.21406443847659375f * square[i];
    EACH dout[i] = dout[i] * (s[i] + x[i] * slope[i] * square[i]);
}
INLINE void plus(vf *a, const vf *b, const int ways) { EACH a[i] = a[i] + b[i]; }
INLINE void logarithm(vf *x, const int ways) { EACH x[i] = vector_log(x[i]); }

INLINE void load_each(vf *v, const float *p, const int ways) { EACH v[i] = load(p + i * VLEN); }
INLINE void store_each(float *p, const vf *v, const int ways) {
    EACH store(p + i * VLEN, v[i]);
}

#define UNARY(name, f)                                                                         \
    void CK(name)(float *out, const float *x, int64_t n, CK_TEAM) {                            \
        range r = team_share(n, GRAIN, part, parts);                                           \
        vf v[WAYS];                                                                            \
        int64_t i = r.begin;                                                                   \
        for (; i + WAYS * VLEN <= r.end; i += WAYS * VLEN) {                                   \
            load_each(v, x + i, WAYS);                                                         \
            f(v, WAYS);                                                                        \
            store_each(out + i, v, WAYS);                                                      \
        }                                                                                      \
        for (; i < r.end; i += VLEN) {                                                         \
            v[0] = load_n(x + i, r.end - i);                                                   \
            f(v, 1);                                                                           \
            store_n(out + i, v[0], r.end - i);                                                 \
        }                                                                                      \
    }
#define BINARY(name, f)                                                                        \
    void CK(name)(float *out, const float *a, const float *b, int64_t n, CK_TEAM) {            \
        range r = team_share(n, GRAIN, part, parts);                                           \
        vf v[WAYS], w[WAYS];                                                                   \
        int64_t i = r.begin;                                                                   \
        for (; i + WAYS * VLEN <= r.end; i += WAYS * VLEN) {                                   \
            load_each(v, a + i, WAYS);                                                         \
            load_each(w, b + i, WAYS);                                                         \
            f(v, w, WAYS);                                                                     \
            store_each(out + i, v, WAYS);                                                      \
        }                                                                                      \
        for (; i < r.end; i += VLEN) {                                                         \
            v[0] = load_n(a + i, r.end - i);                                                   \
            w[0] = load_n(b + i, r.end - i);                                                   \
            f(v, w, 1);                                                                        \
            store_n(out + i, v[0], r.end - i);                                                 \
        }                                                                                      \
    }

UNARY(relu_forward, relu)
BINARY(relu_backward, relu_slope)
UNARY(gelu_forward, gelu)
BINARY(gelu_backward, gelu_slope)
BINARY(add, plus)
UNARY(exp, exp_each)
UNARY(log, logarithm)
UNARY(sigmoid, sigmoid)

/* gate and up of one row, WAYS vectors at once, then one, then a tail. */
INLINE void swiglu_vectors(float *out, const float *gate, const float *up, int64_t n,
                           const int ways) {
    vf g[WAYS], s[WAYS], u[WAYS];
    EACH g[i] = s[i] = load_n(gate + i * VLEN, n - i * VLEN);
    EACH u[i] = load_n(up + i * VLEN, n - i * VLEN);
    sigmoid(s, ways);
    EACH store_n(out + i * VLEN, g[i] * s[i] * u[i], n - i * VLEN);
}

INLINE void swiglu_slopes(float *dgate, float *dup, const float *dout, const float *gate,
                          const float *up, int64_t n, const int ways) {
    vf g[WAYS], s[WAYS], slope[WAYS], d[WAYS];
    EACH g[i] = s[i] = load_n(gate + i * VLEN, n - i * VLEN);
    EACH d[i] = load_n(dout + i * VLEN, n - i * VLEN);
    sigmoid_each(s, slope, ways);
    EACH slope[i] = d[i] * load_n(up + i * VLEN, n - i * VLEN) * (s[i] + g[i] * slope[i]);
    EACH store_n(dup + i * VLEN, d[i] * (g[i] * s[i]), n - i * VLEN);
    EACH store_n(dgate + i * VLEN, slope[i], n - i * VLEN);
}

void CK(swiglu_forward)(float *out, const float *gate_up, int64_t rows, int64_t hidden,
                        CK_TEAM) {
    range r = team_share(rows, 1, part, parts);
    for (int64_t row = r.begin; row < r.end; row++) {
        const float *gate = gate_up + row * 2 * hidden, *up = gate + hidden;
        float *o = out + row * hidden;
        int64_t j = 0;
        for (; j + WAYS * VLEN <= hidden; j += WAYS * VLEN)
            swiglu_vectors(o + j, gate + j, up + j, WAYS * VLEN, WAYS);
        for (; j < hidden; j += VLEN) swiglu_vectors(o + j, gate + j, up + j, hidden - j, 1);
    }
}

void CK(swiglu_backward)(float *dgate_up, const float *dout, const float *gate_up, int64_t rows,
                         int64_t hidden, CK_TEAM) {
    range r = team_share(rows, 1, part, parts);
    for (int64_t row = r.begin; row < r.end; row++) {
        const float *gate = gate_up + row * 2 * hidden, *up = gate + hidden;
        const float *d = dout + row * hidden;
        float *dgate = dgate_up + row * 2 * hidden, *dup = dgate + hidden;
        int64_t j = 0;
        for (; j + WAYS * VLEN <= hidden; j += WAYS * VLEN)
            swiglu_slopes(dgate + j, dup + j, d + j, gate + j, up + j, WAYS * VLEN, WAYS);
        for (; j < hidden; j += VLEN)
            swiglu_slopes(dgate + j, dup + j, d + j, gate + j, up + j, hidden - j, 1);
    }
}
