/* vec.h - the vectors all kernels are written with, once for every ISA.
 *
 * GCC's and Clang's vector extensions give arithmetic, comparison and conversion for a vector of
 * VLEN floats; only what they lack (maximum, square root, a pick by mask) is spelled per ISA here.
 * VLEN follows the compiler's flags, or CK_LANES, which compiles the 16-lane code for a machine
 * without AVX-512 so that it can be tested there.
 *
 * Every operation is correctly rounded in each lane, so an element's result does not depend on
 * the lane it sits in: tails run through the same vector code on zero-padded vectors, and a
 * range may be cut anywhere between elements without changing a bit.
 */
#ifndef CK_VEC_H
#define CK_VEC_H

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(CK_LANES)
#define VLEN CK_LANES
#elif defined(__AVX512F__)
#define VLEN 16
#elif defined(__AVX2__)
#define VLEN 8
#else
#define VLEN 4
#endif

#define INLINE static inline __attribute__((always_inline))

/* Whole small loops of constant length, so that arrays of vectors live in registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef float vf __attribute__((vector_size(4 * VLEN)));
typedef int32_t vi __attribute__((vector_size(4 * VLEN)));
typedef uint32_t vu __attribute__((vector_size(4 * VLEN)));
typedef float vf_memory __attribute__((vector_size(4 * VLEN), aligned(4), may_alias));

INLINE vf load(const float *p) { return *(const vf_memory *)p; }
INLINE void store(float *p, vf v) { *(vf_memory *)p = v; }
INLINE vf set1(float x) { return x - (vf){0}; }

/* The first n floats, then zeros, and their store; whole vectors for n >= VLEN. */
INLINE vf load_n(const float *p, int64_t n) {
    if (n >= VLEN) return load(p);
    float lanes[VLEN] = {0};
    for (int64_t i = 0; i < n; i++) lanes[i] = p[i];
    return load(lanes);
}
INLINE void store_n(float *p, vf v, int64_t n) {
    if (n >= VLEN) {
        store(p, v);
        return;
    }
    float lanes[VLEN];
    store(lanes, v);
    for (int64_t i = 0; i < n; i++) p[i] = lanes[i];
}

/* mask lanes all ones: a, all zeros: b */
INLINE vf pick(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }
INLINE vf zero_unless(vi mask, vf a) { return (vf)((vi)a & mask); }
INLINE vf absolute(vf a) { return (vf)((vi)a & 0x7fffffff); }

/* Ones in lanes 0..n-1. */
INLINE vi first_lanes(int64_t n) {
    vi lane;
    for (int i = 0; i < VLEN; i++) lane[i] = i;
    return lane < (int32_t)n;
}

/* maximum(a, b) is b if either is NaN, and minimum likewise: put the data second. */
#if VLEN == 16 && defined(__AVX512F__)
INLINE vf maximum(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf minimum(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE vf square_root(vf a) { return (vf)_mm512_sqrt_ps((__m512)a); }
#elif VLEN == 8 && defined(__AVX2__)
INLINE vf maximum(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf minimum(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE vf square_root(vf a) { return (vf)_mm256_sqrt_ps((__m256)a); }
#elif VLEN == 4 && defined(__SSE2__)
INLINE vf maximum(vf a, vf b) { return (vf)_mm_max_ps((__m128)a, (__m128)b); }
INLINE vf minimum(vf a, vf b) { return (vf)_mm_min_ps((__m128)a, (__m128)b); }
INLINE vf square_root(vf a) { return (vf)_mm_sqrt_ps((__m128)a); }
#else
INLINE vf maximum(vf a, vf b) { return pick(a > b, a, b); }
INLINE vf minimum(vf a, vf b) { return pick(a < b, a, b); }
INLINE vf square_root(vf a) {
    for (int i = 0; i < VLEN; i++) a[i] = __builtin_sqrtf(a[i]);
    return a;
}
#endif

/* Lanes added, or compared, in a fixed tree: the upper half onto the lower, until one is left. */
#if defined(__AVX2__) && VLEN == 8
#define FOLD_LANES(name, op)                                                                   \
    INLINE float name(vf v) {                                                                  \
        __m128 t = op(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1)); \
        t = op(t, _mm_movehl_ps(t, t));                                                        \
        return _mm_cvtss_f32(op(t, _mm_movehdup_ps(t)));                                       \
    }
#define ADD_LANES _mm_add_ps
#define MAX_LANES _mm_max_ps
#else
#define FOLD_LANES(name, op)                                                                   \
    INLINE float name(vf v) {                                                                  \
        float t[VLEN];                                                                         \
        store(t, v);                                                                           \
        for (int half = VLEN / 2; half > 0; half /= 2)                                         \
            for (int i = 0; i < half; i++) t[i] = op(t[i], t[i + half]);                       \
        return t[0];                                                                           \
    }
#define ADD_LANES(a, b) ((a) + (b))
#define MAX_LANES(a, b) ((a) > (b) ? (a) : (b))
#endif
FOLD_LANES(sum_lanes, ADD_LANES)
FOLD_LANES(max_lanes, MAX_LANES)

/* exp(x): x = n ln 2 + r with |r| <= ln(2)/2, a degree-6 minimax polynomial in r (relative error
 * 3e-9 before rounding), then scaled by 2^n built from bits. Within 1 ulp on [-87.3, 88.3];
 * 0 below -87.69, +inf above 88.38, NaN for NaN. WAYS vectors at once, step by step side by side:
 * one exp is a chain of 16 dependent operations and a core looks only so far ahead. */
enum { WAYS = 4 };
#define EACH UNROLL for (int i = 0; i < ways; i++)
INLINE void exp_each(vf *x, const int ways) {
    const float shift = 12582912.0f; /* 1.5 * 2^23: rounds to an integer in the low bits */
    vf n[WAYS], r[WAYS], p[WAYS], q[WAYS], shifted[WAYS];
    EACH x[i] = minimum(set1(89.0f), maximum(set1(-88.0f), x[i]));
    EACH shifted[i] = x[i] * 1.44269504088896341f + shift;
    EACH n[i] = shifted[i] - shift;
    EACH r[i] = x[i] - n[i] * 0.693359375f;
    EACH r[i] = r[i] + n[i] * 2.12194440054690583e-4f;
    EACH q[i] = r[i] * 1.38145986467e-3f + 8.36871687979e-3f;
    EACH q[i] = q[i] * r[i] + 4.16683880453e-2f;
    EACH q[i] = q[i] * r[i] + 1.66665206317e-1f;
    EACH q[i] = q[i] * r[i] + 4.99999934478e-1f;
    EACH p[i] = (q[i] * r[i]) * r[i] + r[i];
    EACH x[i] = (p[i] + 1.0f) * (vf)(((vu)shifted[i] << 23) + (127u << 23));
}
INLINE vf vector_exp(vf x) {
    exp_each(&x, 1);
    return x;
}

/* log(x) for positive normal x: x = 2^n (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); with
 * s = f / (2 + f) and R a minimax polynomial in s^2, log(1 + f) = f - f^2/2 + s (f^2/2 + R).
 * Within 1 ulp. */
INLINE vf vector_log(vf x) {
    vu bits = (vu)x - 0x3f3504f3u; /* sqrt(1/2): n rounds down from there */
    vf n = __builtin_convertvector((vi)bits >> 23, vf);
    vf f = (vf)((bits & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    vf s = f / (f + 2.0f);
    vf z = s * s;
    vf R = z * 2.35825997131e-1f + 2.85372863365e-1f;
    R = R * z + 4.00003355160e-1f;
    R = R * z + 6.66666656441e-1f;
    R = R * z;
    vf half_square = 0.5f * f * f;
    vf small = s * (half_square + R) - n * 2.12194440054690583e-4f;
    return n * 0.693359375f + (f - (half_square - small));
}
INLINE float scalar_log(float x) { return vector_log(set1(x))[0]; }

/* s = 1 / (1 + exp(-x)) into x, and its derivative s (1 - s) without cancellation: with
 * e = exp(-|x|) and r = 1 / (1 + e), s is r or e r by the sign of x, and s (1 - s) is e r^2. */
INLINE void sigmoid_each(vf *x, vf *slope, const int ways) {
    vf e[WAYS], r[WAYS];
    EACH e[i] = -absolute(x[i]);
    exp_each(e, ways);
    EACH r[i] = 1.0f / (1.0f + e[i]);
    EACH e[i] = e[i] * r[i];
    EACH slope[i] = e[i] * r[i];
    EACH x[i] = pick(x[i] < 0.0f, e[i], r[i]);
}

#endif
