/* norms.c - LayerNorm (Ba et al. 2016) and RMSNorm (Zhang & Sennrich 2019) over rows.
 *
 *   layernorm: y = (x - mean) rstd, out = y gamma + beta, rstd = 1 / sqrt(var + eps)
 *   rmsnorm:   y = x rstd,          out = y gamma,        rstd = 1 / sqrt(mean(x^2) + eps)
 *   input:     g = dout gamma; dx = rstd (g - [layernorm: mean(g)] - y mean(g y)) + residual
 *   weight:    dgamma += sum over rows of dout y; dbeta += sum of dout
 * Saved for backward: mean and rstd, one float per row each; y is computed again. A row fits
 * the first cache, so its passes cost arithmetic only; the weight gradients walk down columns,
 * COLUMNS at a time in registers, and the partial sums of ROWS rows are added in ascending order.
 */
#include "kernel.h"

enum { STREAMS = 4, COLUMNS = 4 * VLEN, ROWS = 128 };

/* sum_i f(i) over [0, width): STREAMS independent vectors of sums hide the adds' latency; they
 * and then the lanes are added in a fixed tree. f(i) gives VLEN terms, tail(i, n) n of them. */
#define ROW_SUM(result, width, f, tail)                                                        \
    do {                                                                                       \
        vf acc[STREAMS] = {{0}};                                                               \
        int64_t i = 0;                                                                         \
        for (; i + STREAMS * VLEN <= (width); i += STREAMS * VLEN)                             \
            for (int s = 0; s < STREAMS; s++) acc[s] += f(i + s * VLEN);                       \
        for (int s = 0; i + VLEN <= (width); i += VLEN, s++) acc[s] += f(i);                   \
        if (i < (width)) acc[STREAMS - 1] += tail(i, (width) - i);                             \
        result = sum_lanes((acc[0] + acc[1]) + (acc[2] + acc[3]));                             \
    } while (0)

#define FOR_ROW(width, whole, tail)                                                            \
    do {                                                                                       \
        int64_t i = 0;                                                                         \
        for (; i + VLEN <= (width); i += VLEN) whole;                                          \
        int64_t n = (width) - i;                                                               \
        if (n > 0) tail;                                                                       \
    } while (0)

#define X_WHOLE(i) load(x + (i))
#define X_TAIL(i, n) load_n(x + (i), n)
#define SQUARE_WHOLE(i) square(load(x + (i)))
#define SQUARE_TAIL(i, n) square(load_n(x + (i), n))
#define DEVIATION_WHOLE(i) square(load(x + (i)) - mu)
#define DEVIATION_TAIL(i, n) zero_unless(first_lanes(n), square(load_n(x + (i), n) - mu))
#define G_WHOLE(i) (load(dout + (i)) * load(gamma + (i)))
#define G_TAIL(i, n) (load_n(dout + (i), n) * load_n(gamma + (i), n))
#define GY_WHOLE(i) (G_WHOLE(i) * (load(x + (i)) - mu))
#define GY_TAIL(i, n) (G_TAIL(i, n) * (load_n(x + (i), n) - mu))

INLINE vf square(vf x) { return x * x; }

static void layernorm_row(float *out, float *mean, float *rstd, const float *x,
                          const float *gamma, const float *beta, int64_t width, float eps) {
    float total, squares;
    ROW_SUM(total, width, X_WHOLE, X_TAIL);
    float m = total / (float)width;
    vf mu = set1(m);
    ROW_SUM(squares, width, DEVIATION_WHOLE, DEVIATION_TAIL);
    float r = 1.0f / __builtin_sqrtf(squares / (float)width + eps);
    FOR_ROW(width, store(out + i, (load(x + i) - mu) * r * load(gamma + i) + load(beta + i)),
            store_n(out + i, (load_n(x + i, n) - mu) * r * load_n(gamma + i, n) +
                                 load_n(beta + i, n), n));
    *mean = m;
    *rstd = r;
}

static void rmsnorm_row(float *out, float *rstd, const float *x, const float *gamma,
                        int64_t width, float eps) {
    float squares;
    ROW_SUM(squares, width, SQUARE_WHOLE, SQUARE_TAIL);
    float r = 1.0f / __builtin_sqrtf(squares / (float)width + eps);
    FOR_ROW(width, store(out + i, load(x + i) * r * load(gamma + i)),
            store_n(out + i, load_n(x + i, n) * r * load_n(gamma + i, n), n));
    *rstd = r;
}

/* One row of either norm's input gradient; an RMSNorm has mean 0 and does not center g. */
INLINE void backward_row(float *dx, const float *dout, const float *x, float mean, float rstd,
                         const float *gamma, const float *residual, int64_t width, int center) {
    vf mu = set1(mean);
    float total = 0, projection;
    if (center) ROW_SUM(total, width, G_WHOLE, G_TAIL);
    ROW_SUM(projection, width, GY_WHOLE, GY_TAIL);
    float shift = total / (float)width;
    float scale = projection / (float)width * rstd * rstd; /* y mean(g y) = (x - mean) scale */
    if (residual)
        FOR_ROW(width,
                store(dx + i, (G_WHOLE(i) - shift - (load(x + i) - mu) * scale) * rstd +
                                  load(residual + i)),
                store_n(dx + i, (G_TAIL(i, n) - shift - (load_n(x + i, n) - mu) * scale) * rstd +
                                    load_n(residual + i, n), n));
    else
        FOR_ROW(width,
                store(dx + i, (G_WHOLE(i) - shift - (load(x + i) - mu) * scale) * rstd),
                store_n(dx + i, (G_TAIL(i, n) - shift - (load_n(x + i, n) - mu) * scale) * rstd,
                        n));
}

/* `columns` <= COLUMNS columns of dgamma and dbeta (or NULL) over rows [first, last). */
INLINE void weight_tile(float *dgamma, float *dbeta, const float *dout, const float *x,
                        const float *mean, const float *rstd, int64_t first, int64_t last,
                        int64_t width, int64_t columns) {
    vf gamma_sum[COLUMNS / VLEN] = {{0}}, beta_sum[COLUMNS / VLEN] = {{0}};
    int64_t whole = columns / VLEN, left = columns % VLEN;
    for (int64_t row = first; row < last; row++) {
        const float *d = dout + row * width, *xr = x + row * width;
        float mu = mean ? mean[row] : 0.0f, r = rstd[row];
        for (int v = 0; v < COLUMNS / VLEN; v++) {
            vf dv = {0}, xv = {0};
            if (v < whole) {
                dv = load(d + v * VLEN);
                xv = load(xr + v * VLEN);
            } else if (v == whole && left) {
                dv = load_n(d + v * VLEN, left);
                xv = load_n(xr + v * VLEN, left);
            }
            gamma_sum[v] += dv * ((xv - mu) * r);
            beta_sum[v] += dv;
        }
    }
    for (int64_t j = 0; j < columns; j++) {
        dgamma[j] += gamma_sum[j / VLEN][j % VLEN];
        if (dbeta) dbeta[j] += beta_sum[j / VLEN][j % VLEN];
    }
}

static void backward_weight(float *dgamma, float *dbeta, const float *dout, const float *x,
                            const float *mean, const float *rstd, int64_t rows, int64_t width,
                            CK_TEAM) {
    range r = team_share(width, COLUMNS, part, parts);
    for (int64_t j = r.begin; j < r.end; j += COLUMNS) {
        float *db = dbeta ? dbeta + j : NULL;
        for (int64_t first = 0; first < rows; first += ROWS) {
            int64_t last = smaller(rows, first + ROWS);
            if (j + COLUMNS <= r.end)
                weight_tile(dgamma + j, db, dout + j, x + j, mean, rstd, first, last, width,
                            COLUMNS);
            else
                weight_tile(dgamma + j, db, dout + j, x + j, mean, rstd, first, last, width,
                            r.end - j);
        }
    }
}

void CK(layernorm_forward)(float *out, float *mean, float *rstd, const float *x,
                           const float *gamma, const float *beta, int64_t rows, int64_t width,
                           float eps, CK_TEAM) {
    range r = team_share(rows, 1, part, parts);
    for (int64_t row = r.begin; row < r.end; row++)
        layernorm_row(out + row * width, mean + row, rstd + row, x + row * width, gamma, beta,
                      width, eps);
}

void CK(rmsnorm_forward)(float *out, float *rstd, const float *x, const float *gamma,
                         int64_t rows, int64_t width, float eps, CK_TEAM) {
    range r = team_share(rows, 1, part, parts);
    for (int64_t row = r.begin; row < r.end; row++)
        rmsnorm_row(out + row * width, rstd + row, x + row * width, gamma, width, eps);
}

void CK(layernorm_backward_input)(float *dx, const float *dout, const float *x,
                                  const float *mean, const float *rstd, const float *gamma,
                                  const float *residual, int64_t rows, int64_t width, CK_TEAM) {
    range r = team_share(rows, 1, part, parts);
    for (int64_t row = r.begin; row < r.end; row++) {
        int64_t at = row * width;
        backward_row(dx + at, dout + at, x + at, mean[row], rstd[row], gamma,
                     residual ? residual + at : NULL, width, 1);
    }
}

void CK(rmsnorm_backward_input)(float *dx, const float *dout, const float *x, const float *rstd,
                                const float *gamma, const float *residual, int64_t rows,
                                int64_t width, CK_TEAM) {
    range r = team_share(rows, 1, part, parts);
    for (int64_t row = r.begin; row < r.end; row++) {
        int64_t at = row * width;
        backward_row(dx + at, dout + at, x + at, 0.0f, rstd[row], gamma,
                     residual ? residual + at : NULL, width, 0);
    }
}

void CK(layernorm_backward_weight)(float *dgamma, float *dbeta, const float *dout,
                                   const float *x, const float *mean, const float *rstd,
                                   int64_t rows, int64_t width, CK_TEAM) {
    backward_weight(dgamma, dbeta, dout, x, mean, rstd, rows, width, part, parts);
}

void CK(rmsnorm_backward_weight)(float *dgamma, const float *dout, const float *x,
                                 const float *rstd, int64_t rows, int64_t width, CK_TEAM) {
    backward_weight(dgamma, NULL, dout, x, NULL, rstd, rows, width, part, parts);
}
