/* agree.c - runs kernels of the best table on fixed numbers and prints what they write, one float
 * a line, so that the outputs of two machines can be compared (test_neon.py). */
#include "kernels.h"

#include <stdio.h>
#include <stdlib.h>

static unsigned long long state = 1;

static float random_float(void) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (float)((double)(state >> 40) / (1 << 24) * 4 - 2);
}

static float *numbers(int64_t n) {
    float *x = aligned_alloc(64, (size_t)(n * 4 + 127) / 64 * 64);
    for (int64_t i = 0; i < n; i++) x[i] = random_float();
    return x;
}

static void show(const char *name, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) printf("%s %.9g\n", name, x[i]);
}

static void products(const ck_kernels *k, void *work) {
    int64_t m = 37, n = 29, depth = 413;
    float *a = numbers(m * depth), *b = numbers(n * depth), *c = numbers(m * n);
    k->gemm(c, n, a, depth, 1, b, 1, depth, numbers(n), NULL, m, n, depth, 1, work, 0, 1);
    show("gemm", c, m * n);
    k->gemm(c, n, a, 1, m, b, n, 1, NULL, NULL, m, n, depth, 0, work, 0, 1);
    show("gemm_turned", c, m * n);
}

static void attention(const ck_kernels *k, void *work) {
    int64_t batch = 2, context = 75, heads = 4, kv_heads = 2, head_dim = 20;
    int64_t rows = batch * context, row = (heads + 2 * kv_heads) * head_dim;
    float *qkv = numbers(rows * row), *dqkv = numbers(rows * row), *lse = numbers(heads * rows);
    float *out = numbers(rows * heads * head_dim), *dout = numbers(rows * heads * head_dim);
    k->attention_forward(out, lse, qkv, batch, context, 0, heads, kv_heads, head_dim, 0.22f, work,
                         0, 1);
    k->attention_backward(dqkv, dout, out, lse, qkv, batch, context, 0, heads, kv_heads, head_dim,
                          0.22f, 0, work, 0, 1);
    show("attention", out, rows * heads * head_dim);
    show("lse", lse, heads * rows);
    show("attention_backward", dqkv, rows * row);
}

static void rest(const ck_kernels *k) {
    enum { ROWS = 17, WIDTH = 59, N = ROWS * WIDTH };
    float *x = numbers(N), *y = numbers(N), *z = numbers(N), *mean = numbers(ROWS);
    float *rstd = numbers(ROWS), *gamma = numbers(WIDTH), *beta = numbers(WIDTH);
    int32_t targets[ROWS];
    for (int i = 0; i < ROWS; i++) targets[i] = i * 3 % WIDTH;
    k->gelu_forward(y, x, N, 0, 1);
    show("gelu", y, N);
    k->gelu_backward(y, z, x, N, 0, 1);
    show("gelu_backward", y, N);
    k->layernorm_forward(y, mean, rstd, x, gamma, beta, ROWS, WIDTH, 1e-5f, 0, 1);
    show("layernorm", y, N);
    k->layernorm_backward_input(y, z, x, mean, rstd, gamma, z, ROWS, WIDTH, 0, 1);
    show("layernorm_backward", y, N);
    k->layernorm_backward_weight(gamma, beta, z, x, mean, rstd, ROWS, WIDTH, 0, 1);
    show("dgamma", gamma, WIDTH);
    k->cross_entropy(rstd, y, x, targets, ROWS, WIDTH, 0.1f, 0, 1);
    show("losses", rstd, ROWS);
    show("dlogits", y, N);
    k->relu_forward(y, x, N, 0, 1);
    k->adamw(x, y, y + N / 2, z, N / 2, 0.01f, 0.9f, 0.99f, 1e-8f, 0.1f, 0.2f, 0.1f, 0.5f, 0, 1);
    show("adamw", x, N / 2);
    printf("sum %.17g\nsum %.17g\n", k->sum(z, N), k->sum_squares(z, N));
}

int main(void) {
    const ck_kernels *k = ck_find(NULL);
    void *work = aligned_alloc(64, 1 << 24);
    fprintf(stderr, "%s\n", k->isa);
    products(k, work);
    attention(k, work);
    rest(k);
    return 0;
}
