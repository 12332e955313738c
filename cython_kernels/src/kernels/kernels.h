/* kernels.h - every C kernel of the project: one table of functions per ISA.
 *
 * The same sources are compiled once per ISA (see CMakeLists.txt); each object exports one
 * table and dispatch.c picks the best one the machine can run, or the one named by CK_ISA.
 *
 * Conventions
 *   order      outputs, saved, inputs, sizes, scalars, workspace, team
 *   layout     row-major fp32 with no padding, unless a stride is an argument
 *   rows       tokens of one microbatch: batch * context
 *   writes     weight gradients are accumulated (+=) in the order of docs/numerics.md;
 *              everything else is overwritten
 *   team       `part` of `parts`: a kernel computes only its share of the output tiles, so a
 *              small team of threads may share one call; no result depends on `parts`
 *   totality   valid input never faults; kernels allocate nothing and check nothing
 * Optional pointers are marked "or NULL".
 */
#ifndef CK_KERNELS_H
#define CK_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define CK_TEAM int part, int parts

typedef struct ck_kernels {
    const char *isa; /* "avx512", "avx2", "neon" or "generic" */
    int lanes;       /* fp32 lanes of the vectors this table was compiled for */

    /* ---- matrix products (gemm.c) -------------------------------------------------------
     * c[i,j] (ldc) = [accumulate ? c : 0] + sum_k a[i*a_rs + k*a_cs] * b[k*b_rs + j*b_cs]
     *                + [bias: bias[j]] + [residual: residual[i*ldc + j]]
     * a is (m,k), b is (k,n); either may be transposed through its strides. bias, residual or
     * NULL; residual may not be c (that is what accumulate is for). `work` holds
     * gemm_workspace(m, n, k) bytes for each part (the caller passes the base of parts * that
     * many bytes), 64-byte aligned. */
    int64_t (*gemm_workspace)(int64_t m, int64_t n, int64_t k);
    void (*gemm)(float *c, int64_t ldc, const float *a, int64_t a_rs, int64_t a_cs,
                 const float *b, int64_t b_rs, int64_t b_cs, const float *bias,
                 const float *residual, int64_t m, int64_t n, int64_t k, int accumulate,
                 void *work, CK_TEAM);
    /* db[j] += sum_i dout[i,j], rows ascending */
    void (*bias_backward)(float *db, const float *dout, int64_t rows, int64_t width, CK_TEAM);

    /* ---- norms (norms.c) ----------------------------------------------------------------
     * out may be x. backward_input: dx = d(norm)/dx applied to dout, + residual (or NULL); dx
     * may be dout or residual. */
    void (*layernorm_forward)(float *out, float *mean, float *rstd, const float *x,
                              const float *gamma, const float *beta, int64_t rows,
                              int64_t width, float eps, CK_TEAM);
    void (*layernorm_backward_input)(float *dx, const float *dout, const float *x,
                                     const float *mean, const float *rstd, const float *gamma,
                                     const float *residual, int64_t rows, int64_t width,
                                     CK_TEAM);
    void (*layernorm_backward_weight)(float *dgamma, float *dbeta, const float *dout,
                                      const float *x, const float *mean, const float *rstd,
                                      int64_t rows, int64_t width, CK_TEAM);
    void (*rmsnorm_forward)(float *out, float *rstd, const float *x, const float *gamma,
                            int64_t rows, int64_t width, float eps, CK_TEAM);
    void (*rmsnorm_backward_input)(float *dx, const float *dout, const float *x,
                                   const float *rstd, const float *gamma,
                                   const float *residual, int64_t rows, int64_t width, CK_TEAM);
    void (*rmsnorm_backward_weight)(float *dgamma, const float *dout, const float *x,
                                    const float *rstd, int64_t rows, int64_t width, CK_TEAM);

    /* ---- activations (activations.c); out may be x, dx may be dout --------------------- */
    void (*relu_forward)(float *out, const float *x, int64_t n, CK_TEAM);
    void (*relu_backward)(float *dx, const float *dout, const float *x, int64_t n, CK_TEAM);
    void (*gelu_forward)(float *out, const float *x, int64_t n, CK_TEAM); /* tanh form */
    void (*gelu_backward)(float *dx, const float *dout, const float *x, int64_t n, CK_TEAM);
    /* gate_up: (rows, 2*hidden), gate first; out (rows, hidden) = silu(gate) * up;
     * dgate_up may be gate_up */
    void (*swiglu_forward)(float *out, const float *gate_up, int64_t rows, int64_t hidden,
                           CK_TEAM);
    void (*swiglu_backward)(float *dgate_up, const float *dout, const float *gate_up,
                            int64_t rows, int64_t hidden, CK_TEAM);
    void (*add)(float *out, const float *a, const float *b, int64_t n, CK_TEAM);
    /* the elementary functions that other kernels inline, so that their accuracy is measured;
     * log takes positive normal x */
    void (*exp)(float *out, const float *x, int64_t n, CK_TEAM);
    void (*log)(float *out, const float *x, int64_t n, CK_TEAM);
    void (*sigmoid)(float *out, const float *x, int64_t n, CK_TEAM);

    /* ---- embedding and rotary positions (embedding.c) -----------------------------------
     * tokens: (batch, context) int32; token_table (vocab, width); position_table
     * (context, width) or NULL. backward_weight adds rows in ascending (batch, context). */
    void (*embedding_forward)(float *out, const int32_t *tokens, const float *token_table,
                              const float *position_table, int64_t batch, int64_t context,
                              int64_t width, CK_TEAM);
    void (*embedding_backward_weight)(float *dtoken_table, float *dposition_table,
                                      const float *dout, const int32_t *tokens, int64_t batch,
                                      int64_t context, int64_t width, CK_TEAM);
    /* Rotates, in place, the first `heads` heads of each row of x (rows of `width` floats) by
     * table (context, head_dim/2, 2) = (cos, sin); halves convention (i, i + head_dim/2);
     * sign +1 forward, -1 backward. */
    void (*rope)(float *x, const float *table, int64_t batch, int64_t context, int64_t width,
                 int64_t heads, int64_t head_dim, float sign, CK_TEAM);

    /* ---- causal attention (attention.c) -------------------------------------------------
     * qkv: rows of (heads + 2*kv_heads) * head_dim floats: q heads, then k heads, then v heads;
     * out: (rows, heads*head_dim); lse: (batch, heads, context) log-sum-exp of scaled scores.
     * Query head h reads key head h / (heads / kv_heads). work: attention_workspace bytes per
     * part.
     * Of a sequence cut into slices, these are the queries of one slice of `context` positions
     * with `past` slices before it: qkv and dqkv then have batch*context rows for each of the
     * past + 1 slices, the earliest first, while out, dout and lse are the slice's own. dq of
     * earlier slices is not written; with `accumulate` dk and dv are added to what is there. */
    int64_t (*attention_workspace)(int64_t context, int64_t past, int64_t head_dim);
    void (*attention_forward)(float *out, float *lse, const float *qkv, int64_t batch,
                              int64_t context, int64_t past, int64_t heads, int64_t kv_heads,
                              int64_t head_dim, float scale, void *work, CK_TEAM);
    void (*attention_backward)(float *dqkv, const float *dout, const float *out,
                               const float *lse, const float *qkv, int64_t batch,
                               int64_t context, int64_t past, int64_t heads, int64_t kv_heads,
                               int64_t head_dim, float scale, int accumulate, void *work,
                               CK_TEAM);

    /* ---- losses (losses.c) --------------------------------------------------------------
     * losses: (rows) fp32, one per row; dlogits = scale * (softmax(logits) - onehot(targets)),
     * may be logits itself, or NULL for the losses alone. A target of -1 is ignored: loss 0,
     * gradient 0.
     * mse: losses[i] = mean_j (x-target)^2, dx = scale * 2/width * (x - target);
     * dx may be x. */
    void (*cross_entropy)(float *losses, float *dlogits, const float *logits,
                          const int32_t *targets, int64_t rows, int64_t vocab, float scale,
                          CK_TEAM);
    void (*mse)(float *losses, float *dx, const float *x, const float *target, int64_t rows,
                int64_t width, float scale, CK_TEAM);

    /* ---- sums in canonical order (reduce.c); see docs/numerics.md ------------------------ */
    double (*sum)(const float *x, int64_t n);
    double (*sum_squares)(const float *x, int64_t n);

    /* ---- optimizers (optimizers.c) -------------------------------------------------------
     * g = grad_scale * grad. AdamW (Loshchilov & Hutter 2019): m = b1 m + (1-b1) g;
     * v = b2 v + (1-b2) g^2; param -= lr * (m / correction1 / (sqrt(v / correction2) + eps)
     * + weight_decay * param), with correction_i = 1 - b_i^t given by the caller.
     * SGD: buf = momentum * buf + g + weight_decay * param; param -= lr * buf. */
    void (*adamw)(float *param, float *m, float *v, const float *grad, int64_t n, float lr,
                  float beta1, float beta2, float eps, float weight_decay, float correction1,
                  float correction2, float grad_scale, CK_TEAM);
    void (*sgd)(float *param, float *buf, const float *grad, int64_t n, float lr,
                float momentum, float weight_decay, float grad_scale, CK_TEAM);
} ck_kernels;

/* Every function of the table, in its order: table.c is filled and the tests are made from it. */
#define CK_KERNEL_LIST(X)                                                                        \
    X(gemm_workspace) X(gemm) X(bias_backward) X(layernorm_forward)                              \
    X(layernorm_backward_input) X(layernorm_backward_weight) X(rmsnorm_forward)                  \
    X(rmsnorm_backward_input) X(rmsnorm_backward_weight) X(relu_forward) X(relu_backward)        \
    X(gelu_forward) X(gelu_backward) X(swiglu_forward) X(swiglu_backward) X(add) X(exp) X(log)   \
    X(sigmoid) X(embedding_forward) X(embedding_backward_weight) X(rope)                         \
    X(attention_workspace) X(attention_forward) X(attention_backward) X(cross_entropy) X(mse)    \
    X(sum) X(sum_squares) X(adamw) X(sgd)
extern const char *const ck_kernel_names[]; /* ended by NULL */

/* Tables this build holds, best first, ended by NULL (dispatch.c). */
extern const ck_kernels *const ck_tables[];
/* 1 if this machine can run the table. */
int ck_runs_here(const ck_kernels *table);
/* The table named `isa` or, if isa is NULL or "", the best that runs here; NULL if none. */
const ck_kernels *ck_find(const char *isa);

#endif
