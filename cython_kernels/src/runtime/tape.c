/* tape.c - one call of a tape: resolve its operands, run its kernel. The order of the names in
 * OPS gives the op codes that workbench.engine uses. */
#include "runtime.h"

#include <string.h>

typedef struct call_view {
    const ck_kernels *k;
    void *p[RK_MAX_POINTERS];
    const int64_t *n;
    const float *f;
    const rk_place *place;
} call_view;

#define OPS(X)                                                                                  \
    X(gemm) X(bias_backward) X(layernorm_forward) X(layernorm_backward_input)                   \
    X(layernorm_backward_weight) X(rmsnorm_forward) X(rmsnorm_backward_input)                   \
    X(rmsnorm_backward_weight) X(relu_forward) X(relu_backward) X(gelu_forward)                 \
    X(gelu_backward) X(swiglu_forward) X(swiglu_backward) X(add) X(embedding_forward)           \
    X(embedding_backward_weight) X(rope) X(attention_forward) X(attention_backward)             \
    X(cross_entropy) X(mse) X(gather) X(mean_loss)

#define OP(name) static void op_##name(const call_view *c, CK_TEAM)
#define P(i) (c->p[i])
#define N(i) (c->n[i])
#define F(i) (c->f[i])
#define TEAM part, parts

OP(gemm) {
    c->k->gemm(P(0), N(0), P(1), N(1), N(2), P(2), N(3), N(4), P(3), P(4), N(5), N(6), N(7),
               (int)N(8), P(5), TEAM);
}
OP(bias_backward) { c->k->bias_backward(P(0), P(1), N(0), N(1), TEAM); }
OP(layernorm_forward) {
    c->k->layernorm_forward(P(0), P(1), P(2), P(3), P(4), P(5), N(0), N(1), F(0), TEAM);
}
OP(layernorm_backward_input) {
    c->k->layernorm_backward_input(P(0), P(1), P(2), P(3), P(4), P(5), P(6), N(0), N(1), TEAM);
}
OP(layernorm_backward_weight) {
    c->k->layernorm_backward_weight(P(0), P(1), P(2), P(3), P(4), P(5), N(0), N(1), TEAM);
}
OP(rmsnorm_forward) { c->k->rmsnorm_forward(P(0), P(1), P(2), P(3), N(0), N(1), F(0), TEAM); }
OP(rmsnorm_backward_input) {
    c->k->rmsnorm_backward_input(P(0), P(1), P(2), P(3), P(4), P(5), N(0), N(1), TEAM);
}
OP(rmsnorm_backward_weight) {
    c->k->rmsnorm_backward_weight(P(0), P(1), P(2), P(3), N(0), N(1), TEAM);
}
OP(relu_forward) { c->k->relu_forward(P(0), P(1), N(0), TEAM); }
OP(relu_backward) { c->k->relu_backward(P(0), P(1), P(2), N(0), TEAM); }
OP(gelu_forward) { c->k->gelu_forward(P(0), P(1), N(0), TEAM); }
OP(gelu_backward) { c->k->gelu_backward(P(0), P(1), P(2), N(0), TEAM); }
OP(swiglu_forward) { c->k->swiglu_forward(P(0), P(1), N(0), N(1), TEAM); }
OP(swiglu_backward) { c->k->swiglu_backward(P(0), P(1), P(2), N(0), N(1), TEAM); }
OP(add) { c->k->add(P(0), P(1), P(2), N(0), TEAM); }
OP(embedding_forward) {
    c->k->embedding_forward(P(0), P(1), P(2), P(3), N(0), N(1), N(2), TEAM);
}
OP(embedding_backward_weight) {
    c->k->embedding_backward_weight(P(0), P(1), P(2), P(3), N(0), N(1), N(2), TEAM);
}
OP(rope) { c->k->rope(P(0), P(1), N(0), N(1), N(2), N(3), N(4), F(0), TEAM); }
OP(attention_forward) {
    c->k->attention_forward(P(0), P(1), P(2), N(0), N(1), N(2), N(3), N(4), N(5), F(0), P(3),
                            TEAM);
}
OP(attention_backward) {
    c->k->attention_backward(P(0), P(1), P(2), P(3), P(4), N(0), N(1), N(2), N(3), N(4), N(5),
                             F(0), (int)N(6), P(5), TEAM);
}
OP(cross_entropy) { c->k->cross_entropy(P(0), P(1), P(2), P(3), N(0), N(1), F(0), TEAM); }
OP(mse) { c->k->mse(P(0), P(1), P(2), P(3), N(0), N(1), F(0), TEAM); }

/* The mean of the rows' losses, in canonical order; n: rows, slices, this one. Slices come in
 * ascending order, each adds its share. */
OP(mean_loss) {
    (void)parts;
    double *loss = c->place->loss;
    if (part != 0 || !loss) return;
    double mean = c->k->sum(P(0), N(0)) / (double)(N(0) * N(1));
    *loss = N(2) ? *loss + mean : mean;
}

/* Where sample `sample` of a step starts: a hash of (seed, step, sample) and of nothing else, so
 * that it does not depend on who asks; the same formula as workbench.data's `offsets`. */
static int64_t sample_start(const rk_data *data, int64_t step, int64_t sample) {
    if (data->sequential) return (sample * data->stride) % data->windows;
    uint64_t x = data->seed * 0x9E3779B97F4A7C15u + (uint64_t)step * 0xBF58476D1CE4E5B9u +
                 (uint64_t)sample * 0x94D049BB133111EBu + 0x2545F4914F6CDD1Du;
    for (int round = 0; round < 2; round++) {
        x ^= x >> 30;
        x *= 0xBF58476D1CE4E5B9u;
        x ^= x >> 27;
        x *= 0x94D049BB133111EBu;
        x ^= x >> 31;
    }
    return (int64_t)(((x >> 32) * (uint64_t)data->windows) >> 32);
}

static void gather_tokens(int32_t *out, const rk_data *data, int64_t start, int64_t count) {
    if (data->kind == 1) {
        const uint8_t *from = (const uint8_t *)data->tokens + start;
        for (int64_t i = 0; i < count; i++) out[i] = from[i];
    } else if (data->kind == 2) {
        const uint16_t *from = (const uint16_t *)data->tokens + start;
        for (int64_t i = 0; i < count; i++) out[i] = from[i];
    } else {
        memcpy(out, (const int32_t *)data->tokens + start, (size_t)count * sizeof *out);
    }
}

/* p: destination; n: batch, elements per sample, 1 for the targets (the next token, or the row
 * of targets) or 0 for the inputs, tokens of the sample before the slice. */
OP(gather) {
    (void)parts;
    if (part != 0) return;
    const rk_place *place = c->place;
    const rk_data *data = place->data;
    int64_t batch = N(0), count = N(1), second = N(2);
    for (int64_t b = 0; b < batch; b++) {
        int64_t sample = (int64_t)place->microbatch * batch + b;
        /* Evaluation walks on through the text from step to step. */
        if (data->sequential) sample += place->step * place->num_microbatches * batch;
        int64_t start = sample_start(data, place->step, sample);
        if (data->kind) {
            gather_tokens((int32_t *)P(0) + b * count, data, start + second + N(3), count);
        } else {
            const float *rows = second ? data->targets : data->tokens;
            memcpy((float *)P(0) + b * count, rows + start * count, (size_t)count * sizeof *rows);
        }
    }
}

typedef void (*op_function)(const call_view *c, CK_TEAM);
#define ENTRY(name) {#name, op_##name},
static const struct {
    const char *name;
    op_function run;
} table[] = {OPS(ENTRY)};

int64_t rk_num_ops(void) { return (int64_t)(sizeof table / sizeof *table); }

const char *rk_op_name(int64_t op) { return table[op].name; }

void rk_run_call(const ck_kernels *kernels, const rk_call *call, const rk_place *place, int part,
                 int parts) {
    call_view view = {.k = kernels, .n = call->size, .f = call->scalar, .place = place};
    for (int i = 0; i < RK_MAX_POINTERS; i++) {
        int32_t region = call->region[i];
        view.p[i] = region < 0 ? NULL : place->base[region] + call->offset[i];
    }
    table[call->op].run(&view, part, parts);
}
