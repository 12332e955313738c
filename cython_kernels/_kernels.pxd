# The kernel table for other Cython modules: `from cython_kernels._kernels cimport table`.
from libc.stdint cimport int32_t, int64_t

ctypedef void (*unary_kernel)(float *, const float *, int64_t, int, int) noexcept nogil
ctypedef void (*binary_kernel)(
    float *, const float *, const float *, int64_t, int, int) noexcept nogil
ctypedef double (*sum_kernel)(const float *, int64_t) noexcept nogil

cdef extern from "kernels.h" nogil:
    ctypedef struct ck_kernels:
        const char *isa
        int lanes
        int64_t (*gemm_workspace)(int64_t, int64_t, int64_t) noexcept nogil
        void (*gemm)(
            float *, int64_t, const float *, int64_t, int64_t, const float *, int64_t,
            int64_t, const float *, const float *, int64_t, int64_t, int64_t, int, void *,
            int, int) noexcept nogil
        unary_kernel relu_forward, gelu_forward, exp, log, sigmoid
        binary_kernel relu_backward, gelu_backward, add
        sum_kernel sum, sum_squares
        void (*bias_backward)(float *, const float *, int64_t, int64_t, int, int) noexcept nogil
        void (*layernorm_forward)(
            float *, float *, float *, const float *, const float *, const float *, int64_t,
            int64_t, float, int, int) noexcept nogil
        void (*layernorm_backward_input)(
            float *, const float *, const float *, const float *, const float *,
            const float *, const float *, int64_t, int64_t, int, int) noexcept nogil
        void (*layernorm_backward_weight)(
            float *, float *, const float *, const float *, const float *, const float *,
            int64_t, int64_t, int, int) noexcept nogil
        void (*rmsnorm_forward)(
            float *, float *, const float *, const float *, int64_t, int64_t, float, int,
            int) noexcept nogil
        void (*rmsnorm_backward_input)(
            float *, const float *, const float *, const float *, const float *,
            const float *, int64_t, int64_t, int, int) noexcept nogil
        void (*rmsnorm_backward_weight)(
            float *, const float *, const float *, const float *, int64_t, int64_t, int,
            int) noexcept nogil
        void (*swiglu_forward)(float *, const float *, int64_t, int64_t, int, int) noexcept nogil
        void (*swiglu_backward)(
            float *, const float *, const float *, int64_t, int64_t, int, int) noexcept nogil
        void (*embedding_forward)(
            float *, const int32_t *, const float *, const float *, int64_t, int64_t,
            int64_t, int, int) noexcept nogil
        void (*embedding_backward_weight)(
            float *, float *, const float *, const int32_t *, int64_t, int64_t, int64_t,
            int, int) noexcept nogil
        void (*rope)(
            float *, const float *, int64_t, int64_t, int64_t, int64_t, int64_t, float, int,
            int) noexcept nogil
        int64_t (*attention_workspace)(int64_t, int64_t, int64_t) noexcept nogil
        void (*attention_forward)(
            float *, float *, const float *, int64_t, int64_t, int64_t, int64_t, int64_t,
            int64_t, float, void *, int, int) noexcept nogil
        void (*attention_backward)(
            float *, const float *, const float *, const float *, const float *, int64_t,
            int64_t, int64_t, int64_t, int64_t, int64_t, float, int, void *, int,
            int) noexcept nogil
        void (*cross_entropy)(
            float *, float *, const float *, const int32_t *, int64_t, int64_t, float, int,
            int) noexcept nogil
        void (*mse)(
            float *, float *, const float *, const float *, int64_t, int64_t, float, int,
            int) noexcept nogil
        void (*adamw)(
            float *, float *, float *, const float *, int64_t, float, float, float, float,
            float, float, float, float, int, int) noexcept nogil
        void (*sgd)(
            float *, float *, const float *, int64_t, float, float, float, float, int,
            int) noexcept nogil

    const ck_kernels *const *ck_tables
    const char *const *ck_kernel_names
    int ck_runs_here(const ck_kernels *) noexcept
    const ck_kernels *ck_find(const char *) noexcept

# The active table: select_isa changes it, so hold it for a run rather than for a process.
cdef const ck_kernels *table() noexcept
