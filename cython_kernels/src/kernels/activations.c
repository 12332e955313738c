/* activations.c - ReLU, GELU, SwiGLU and addition, element by element.
 *
 * gelu (tanh form, Hendrycks & Gimpel 2016): u = sqrt(2/pi) (x + 0.044715 x^3),
 *   out = x (1 + tanh u) / 2 = x s(2u), s the logistic function;
 *   dx = dout (s + x s (1 - s) 2u'), u' = sqrt(2/pi) (1 + 0.134145 x^2).
 * swiglu (Shazeer 2020): out = g s(g) up; dup = dout g s(g); dg = dout up (s + g s (1 - s)).
 * Nothing is saved but the inputs. Bound by memory, not by arithmetic.
 */
#include "kernel.h"

enum { GRAIN = 1024 }; /* elements: a part's share starts on its own cache lines */

/* for each vector of [begin, end): body(load, store) with whole vectors, then one tail. */
#define FOR_VECTORS(i, begin, end, whole, tail)                                                \
    do {                                                                                       \
        int64_t i = (begin);                                                                   \
        for (; i + VLEN <= (end); i += VLEN) whole;                                            \
        int64_t left = (end) - i;                                                              \
        if (left > 0) tail;                                                                    \
    } while (0)

INLINE vf relu(vf x) { return zero_unless(~(x <= 0.0f), x); } /* NaN passes */
INLINE vf relu_slope(vf dout, vf x) { return zero_unless(~(x <= 0.0f), dout); }

INLINE vf gelu(vf x) {
    vf slope;
    return x * vector_sigmoid(x * (1.5957691216057308f + 0.07135481282553125f * x * x), &slope);
}
INLINE vf gelu_slope(vf dout, vf x) {
    vf slope, square = x * x;
    vf s = vector_sigmoid(x * (1.5957691216057308f + 0.07135481282553125f * square), &slope);
    return dout * (s + x * slope * (1.5957691216057308f + 0.21406443847659375f * square));
}

#define UNARY(name, f)                                                                         \
    void CK(name)(float *out, const float *x, int64_t n, CK_TEAM) {                            \
        range r = team_share(n, GRAIN, part, parts);                                           \
        FOR_VECTORS(i, r.begin, r.end, store(out + i, f(load(x + i))),                         \
                    store_n(out + i, f(load_n(x + i, left)), left));                           \
    }
#define BINARY(name, f)                                                                        \
    void CK(name)(float *out, const float *a, const float *b, int64_t n, CK_TEAM) {            \
        range r = team_share(n, GRAIN, part, parts);                                           \
        FOR_VECTORS(i, r.begin, r.end, store(out + i, f(load(a + i), load(b + i))),            \
                    store_n(out + i, f(load_n(a + i, left), load_n(b + i, left)), left));      \
    }

INLINE vf plus(vf a, vf b) { return a + b; }
INLINE vf sigmoid(vf x) {
    vf slope;
    return vector_sigmoid(x, &slope);
}

UNARY(relu_forward, relu)
BINARY(relu_backward, relu_slope)
UNARY(gelu_forward, gelu)
BINARY(gelu_backward, gelu_slope)
BINARY(add, plus)
UNARY(exp, vector_exp)
UNARY(log, vector_log)
UNARY(sigmoid, sigmoid)

INLINE vf swiglu(vf gate, vf up) { return gate * sigmoid(gate) * up; }

INLINE void swiglu_slopes(vf *dgate, vf *dup, vf dout, vf gate, vf up) {
    vf slope, s = vector_sigmoid(gate, &slope);
    *dup = dout * (gate * s);
    *dgate = dout * up * (s + gate * slope);
}

void CK(swiglu_forward)(float *out, const float *gate_up, int64_t rows, int64_t hidden,
                        CK_TEAM) {
    range r = team_share(rows, 1, part, parts);
    for (int64_t row = r.begin; row < r.end; row++) {
        const float *gate = gate_up + row * 2 * hidden, *up = gate + hidden;
        float *o = out + row * hidden;
        FOR_VECTORS(i, 0, hidden, store(o + i, swiglu(load(gate + i), load(up + i))),
                    store_n(o + i, swiglu(load_n(gate + i, left), load_n(up + i, left)), left));
    }
}

void CK(swiglu_backward)(float *dgate_up, const float *dout, const float *gate_up, int64_t rows,
                         int64_t hidden, CK_TEAM) {
    range r = team_share(rows, 1, part, parts);
    for (int64_t row = r.begin; row < r.end; row++) {
        const float *gate = gate_up + row * 2 * hidden, *up = gate + hidden;
        const float *d = dout + row * hidden;
        float *dgate = dgate_up + row * 2 * hidden, *dup = dgate + hidden;
        vf g, u;
        FOR_VECTORS(i, 0, hidden,
                    {
                        swiglu_slopes(&g, &u, load(d + i), load(gate + i), load(up + i));
                        store(dgate + i, g);
                        store(dup + i, u);
                    },
                    {
                        swiglu_slopes(&g, &u, load_n(d + i, left), load_n(gate + i, left),
                                      load_n(up + i, left));
                        store_n(dgate + i, g, left);
                        store_n(dup + i, u, left);
                    });
    }
}
