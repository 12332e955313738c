/* optimizers.c - AdamW (Loshchilov & Hutter 2019) and SGD with momentum, element by element.
 *
 *   g = grad_scale grad; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2
 *   param -= lr ((m / correction1) / (sqrt(v / correction2) + eps) + weight_decay param)
 *   sgd: buf = momentum buf + g + weight_decay param; param -= lr buf
 * In place on param and state. Bound by memory: 28 bytes per parameter for AdamW, 20 for SGD.
 * An element's result does not depend on its place, so a stage may update its parameters in one
 * call or many.
 */
#include "kernel.h"

enum { GRAIN = 1024 };

typedef struct adamw_scalars {
    float lr, beta1, beta2, eps, weight_decay, inverse1, inverse2, grad_scale;
} adamw_scalars;

INLINE void adamw_step(vf *p, vf *m, vf *v, vf grad, const adamw_scalars *s) {
    vf g = grad * s->grad_scale;
    *m = *m * s->beta1 + g * (1.0f - s->beta1);
    *v = *v * s->beta2 + (g * g) * (1.0f - s->beta2);
    vf denominator = square_root(*v * s->inverse2) + s->eps;
    *p = *p - s->lr * ((*m * s->inverse1) / denominator + s->weight_decay * *p);
}

void CK(adamw)(float *param, float *m, float *v, const float *grad, int64_t n, float lr,
               float beta1, float beta2, float eps, float weight_decay, float correction1,
               float correction2, float grad_scale, CK_TEAM) {
    const adamw_scalars s = {lr,           beta1, beta2, eps, weight_decay, 1.0f / correction1,
                             1.0f / correction2, grad_scale};
    range r = team_share(n, GRAIN, part, parts);
    int64_t i = r.begin;
    for (; i + VLEN <= r.end; i += VLEN) {
        vf pi = load(param + i), mi = load(m + i), vi_ = load(v + i);
        adamw_step(&pi, &mi, &vi_, load(grad + i), &s);
        store(param + i, pi);
        store(m + i, mi);
        store(v + i, vi_);
    }
    int64_t left = r.end - i;
    if (left > 0) {
        vf pi = load_n(param + i, left), mi = load_n(m + i, left), vi_ = load_n(v + i, left);
        adamw_step(&pi, &mi, &vi_, load_n(grad + i, left), &s);
        store_n(param + i, pi, left);
        store_n(m + i, mi, left);
        store_n(v + i, vi_, left);
    }
}

INLINE void sgd_step(vf *p, vf *buf, vf grad, float lr, float momentum, float weight_decay,
                     float grad_scale) {
    *buf = *buf * momentum + (grad * grad_scale + *p * weight_decay);
    *p = *p - *buf * lr;
}

void CK(sgd)(float *param, float *buf, const float *grad, int64_t n, float lr, float momentum,
             float weight_decay, float grad_scale, CK_TEAM) {
    range r = team_share(n, GRAIN, part, parts);
    int64_t i = r.begin;
    for (; i + VLEN <= r.end; i += VLEN) {
        vf p = load(param + i), b = load(buf + i);
        sgd_step(&p, &b, load(grad + i), lr, momentum, weight_decay, grad_scale);
        store(param + i, p);
        store(buf + i, b);
    }
    int64_t left = r.end - i;
    if (left > 0) {
        vf p = load_n(param + i, left), b = load_n(buf + i, left);
        sgd_step(&p, &b, load_n(grad + i, left), lr, momentum, weight_decay, grad_scale);
        store_n(param + i, p, left);
        store_n(buf + i, b, left);
    }
}
