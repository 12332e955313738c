# cython: language_level=3, freethreading_compatible=True
# cython: boundscheck=False, wraparound=False, cdivision=True
"""The C kernels behind checks: one function per entry of the kernel table, in its order.

Arguments come in kernels.h's order, arrays first; sizes are the arrays' own. A wrong dtype,
shape, layout or an overlapping output raises ValueError; memory is never allocated except for
workspace that is not given. `parts` runs the kernel's shares one after another: it exists to
show that no result depends on it. The maths of every kernel is in ``reference``.
"""
import os

from libc.stdint cimport int32_t, int64_t, uintptr_t

include "_arguments.pxi"


# ---- which instruction set -------------------------------------------------------------

cdef const ck_kernels *active = ck_find(NULL)

cdef const ck_kernels *table() noexcept:
    return active


def kernel_names():
    """Every kernel of the table, in its order."""
    cdef int i = 0
    names = []
    while ck_kernel_names[i] != NULL:
        names.append(ck_kernel_names[i].decode())
        i += 1
    return tuple(names)


def built_isas():
    """The instruction sets this build holds, best first."""
    cdef int i = 0
    names = []
    while ck_tables[i] != NULL:
        names.append(ck_tables[i].isa.decode())
        i += 1
    return tuple(names)


def available_isas():
    """Those of ``built_isas`` that this machine runs."""
    return tuple([name for name in built_isas() if ck_find(name.encode()) != NULL])


def isa():
    """The instruction set in use."""
    return active.isa.decode()


def lanes():
    """fp32 lanes of its vectors."""
    return active.lanes


def select_isa(name):
    """Use the table of this name from now on; ValueError if this machine has it not."""
    global active
    if name not in available_isas():
        have = ", ".join(available_isas())
        raise ValueError(f"instruction set {name!r} does not run here; these do: {have}")
    active = ck_find(name.encode())


if os.environ.get("CK_ISA"):
    select_isa(os.environ["CK_ISA"])


# ---- workspace -------------------------------------------------------------------------

cdef class Workspace:
    """64-byte aligned bytes for all parts: the caller's, or our own."""
    cdef unsigned char[::1] memory
    cdef void *base

    def __cinit__(self, str kernel, work, int64_t size):
        cdef int64_t misaligned
        given = work is not None
        try:
            self.memory = work if given else bytearray(size + 64)
        except (BufferError, TypeError, ValueError) as error:
            raise ValueError(f"{kernel}: work is not writable uint8: {error}") from None
        if given and self.memory.shape[0] < size:
            raise ValueError(f"{kernel}: work has {self.memory.shape[0]} bytes, not {size}")
        if size == 0:
            return
        misaligned = <uintptr_t>&self.memory[0] % 64
        if given and misaligned:
            raise ValueError(f"{kernel}: work is not aligned to 64 bytes")
        self.base = &self.memory[0] + (64 - misaligned) % 64


# ---- matrix products -------------------------------------------------------------------

def gemm_workspace(int64_t m, int64_t n, int64_t k):
    """Bytes of workspace of each part of a gemm of these sizes."""
    return active.gemm_workspace(m, n, k)


def gemm(c, a, b, bias=None, residual=None, bint accumulate=False, *, int parts=1, work=None):
    """c = [c +] a b [+ bias] [+ residual]. a and b may have any strides (``x.T``), c and
    residual any common row stride. residual may not be c: use accumulate."""
    cdef const ck_kernels *t = active
    args = Arguments("gemm", parts)
    cdef int64_t m, n, k
    cdef int part
    m, k = args.shape(a, "a", 2)
    if args.shape(b, "b", 2)[0] != k:
        raise ValueError(f"gemm: a is {a.shape} but b is {b.shape}")
    n = b.shape[1]
    if args.shape(c, "c", 2) != (m, n):
        raise ValueError(f"gemm: c is {c.shape} but a is {a.shape} and b is {b.shape}")
    cdef Py_buffer *av = args.acquire(a, "a", "float32", False)
    cdef Py_buffer *bv = args.acquire(b, "b", "float32", False)
    cdef const float *bias_ = args.read_optional(bias, "bias", (n,))
    cdef int64_t ldc = 0
    cdef float *c_ = <float *>args.take_rows(c, "c", &ldc, True)
    cdef const float *residual_ = NULL
    if residual is not None:
        if args.shape(residual, "residual", 2) != (m, n):
            raise ValueError(f"gemm: residual is {residual.shape} but c is {c.shape}")
        residual_ = <const float *>args.take_rows(residual, "residual", &ldc, False)
    args.apart()
    if m == 0 or n == 0:
        return
    space = Workspace("gemm", work, t.gemm_workspace(m, n, k) * parts)
    cdef void *base = space.base
    with nogil:
        for part in range(parts):
            t.gemm(
                c_, ldc, <const float *>av.buf, av.strides[0] // 4, av.strides[1] // 4,
                <const float *>bv.buf, bv.strides[0] // 4, bv.strides[1] // 4, bias_,
                residual_, m, n, k, accumulate, base, part, parts)


def bias_backward(db, dout, *, int parts=1):
    """db += sum of dout's rows."""
    cdef const ck_kernels *t = active
    args = Arguments("bias_backward", parts)
    cdef int64_t rows, width
    cdef int part
    rows, width = args.rows(dout, "dout")
    cdef float *db_ = args.write(db, "db", (width,))
    cdef const float *dout_ = args.read(dout, "dout", (rows, width))
    args.apart()
    with nogil:
        for part in range(parts):
            t.bias_backward(db_, dout_, rows, width, part, parts)


# ---- attention -------------------------------------------------------------------------

cdef tuple attention_sizes(Arguments args, out, lse, qkv):
    """(batch, context, past, heads, kv_heads, head_dim) from the three arrays."""
    batch, heads, context = args.shape(lse, "lse", 3)
    rows, width = args.rows(out, "out")
    qkv_rows, qkv_width = args.rows(qkv, "qkv")
    if rows != batch * context or heads == 0 or width % heads:
        raise ValueError(f"{args.kernel}: out is {out.shape} but lse is {lse.shape}, "
                         "not (batch, heads, context)")
    head_dim = width // heads
    kv_heads = (qkv_width - width) // (2 * head_dim) if head_dim else 0
    whole = rows and qkv_rows >= rows and qkv_rows % rows == 0 or qkv_rows == rows
    if not whole or qkv_width != width + 2 * kv_heads * head_dim or kv_heads < 1:
        raise ValueError(f"{args.kernel}: qkv is {qkv.shape} but out is {out.shape} "
                         f"with {heads} heads of {head_dim}")
    if heads % kv_heads:
        raise ValueError(
            f"{args.kernel}: {heads} heads are not a multiple of {kv_heads} key heads")
    past = qkv_rows // rows - 1 if rows else 0
    return batch, context, past, heads, kv_heads, head_dim


def attention_workspace(int64_t context, int64_t past, int64_t head_dim):
    """Bytes of workspace of each part of an attention call."""
    return active.attention_workspace(context, past, head_dim)


def attention_forward(out, lse, qkv, float scale, *, int parts=1, work=None):
    """Causal attention of packed q, k, v heads; saves lse (batch, heads, context).

    Where qkv has more rows than out, these are the queries of a sequence's last slice: the
    rows of earlier slices come first in qkv, batch * context of each.
    """
    cdef const ck_kernels *t = active
    args = Arguments("attention_forward", parts)
    cdef int64_t batch, context, past, heads, kv_heads, head_dim
    cdef int part
    batch, context, past, heads, kv_heads, head_dim = attention_sizes(args, out, lse, qkv)
    cdef float *out_ = args.write(out, "out", (batch * context, heads * head_dim))
    cdef float *lse_ = args.write(lse, "lse", (batch, heads, context))
    cdef const float *qkv_ = args.read(
        qkv, "qkv", ((past + 1) * batch * context, (heads + 2 * kv_heads) * head_dim))
    args.apart()
    space = Workspace(
        "attention_forward", work, t.attention_workspace(context, past, head_dim) * parts)
    cdef void *base = space.base
    with nogil:
        for part in range(parts):
            t.attention_forward(out_, lse_, qkv_, batch, context, past, heads, kv_heads,
                                head_dim, scale, base, part, parts)


def attention_backward(dqkv, dout, out, lse, qkv, float scale, bint accumulate=False, *,
                       int parts=1, work=None):
    """dqkv = gradients of q, k and v heads, packed as in qkv.

    For a slice of a sequence (see attention_forward) dq of earlier slices is left alone, and
    with `accumulate` dk and dv are added to what later slices have left there.
    """
    cdef const ck_kernels *t = active
    args = Arguments("attention_backward", parts)
    cdef int64_t batch, context, past, heads, kv_heads, head_dim
    cdef int part
    batch, context, past, heads, kv_heads, head_dim = attention_sizes(args, out, lse, qkv)
    packed = (past + 1) * batch * context, (heads + 2 * kv_heads) * head_dim
    merged = batch * context, heads * head_dim
    cdef float *dqkv_ = args.write(dqkv, "dqkv", packed)
    cdef const float *dout_ = args.read(dout, "dout", merged)
    cdef const float *out_ = args.read(out, "out", merged)
    cdef const float *lse_ = args.read(lse, "lse", (batch, heads, context))
    cdef const float *qkv_ = args.read(qkv, "qkv", packed)
    args.apart()
    space = Workspace(
        "attention_backward", work, t.attention_workspace(context, past, head_dim) * parts)
    cdef void *base = space.base
    with nogil:
        for part in range(parts):
            t.attention_backward(dqkv_, dout_, out_, lse_, qkv_, batch, context, past, heads,
                                 kv_heads, head_dim, scale, accumulate, base, part, parts)


include "_layers.pxi"
