# Norms, activations, embedding, losses, sums and optimizers; included by _kernels.pyx.


# ---- norms -----------------------------------------------------------------------------

def layernorm_forward(out, mean, rstd, x, gamma, beta, float eps=1e-5, *, int parts=1):
    """out = (x - mean) rstd gamma + beta for each row; saves mean and rstd (rows)."""
    cdef const ck_kernels *t = active
    args = Arguments("layernorm_forward", parts)
    cdef int64_t rows, width
    cdef int part
    rows, width = args.rows(x, "x")
    cdef const float *x_ = args.read(x, "x", (rows, width))
    cdef float *out_ = args.write(out, "out", (rows, width))
    cdef float *mean_ = args.write(mean, "mean", (rows,))
    cdef float *rstd_ = args.write(rstd, "rstd", (rows,))
    cdef const float *gamma_ = args.read(gamma, "gamma", (width,))
    cdef const float *beta_ = args.read(beta, "beta", (width,))
    args.apart((("out", "x"),))
    with nogil:
        for part in range(parts):
            t.layernorm_forward(
                out_, mean_, rstd_, x_, gamma_, beta_, rows, width, eps, part, parts)


def layernorm_backward_input(dx, dout, x, mean, rstd, gamma, residual=None, *, int parts=1):
    """dx = dout through the norm (+ residual). dx may be dout or residual."""
    cdef const ck_kernels *t = active
    args = Arguments("layernorm_backward_input", parts)
    cdef int64_t rows, width
    cdef int part
    rows, width = args.rows(x, "x")
    cdef const float *x_ = args.read(x, "x", (rows, width))
    cdef float *dx_ = args.write(dx, "dx", (rows, width))
    cdef const float *dout_ = args.read(dout, "dout", (rows, width))
    cdef const float *mean_ = args.read(mean, "mean", (rows,))
    cdef const float *rstd_ = args.read(rstd, "rstd", (rows,))
    cdef const float *gamma_ = args.read(gamma, "gamma", (width,))
    cdef const float *residual_ = args.read_optional(residual, "residual", (rows, width))
    args.apart((("dx", "dout"), ("dx", "residual")))
    with nogil:
        for part in range(parts):
            t.layernorm_backward_input(
                dx_, dout_, x_, mean_, rstd_, gamma_, residual_, rows, width, part, parts)


def layernorm_backward_weight(dgamma, dbeta, dout, x, mean, rstd, *, int parts=1):
    """dgamma += sum of dout (x - mean) rstd; dbeta += sum of dout, over rows."""
    cdef const ck_kernels *t = active
    args = Arguments("layernorm_backward_weight", parts)
    cdef int64_t rows, width
    cdef int part
    rows, width = args.rows(x, "x")
    cdef const float *x_ = args.read(x, "x", (rows, width))
    cdef float *dgamma_ = args.write(dgamma, "dgamma", (width,))
    cdef float *dbeta_ = args.write(dbeta, "dbeta", (width,))
    cdef const float *dout_ = args.read(dout, "dout", (rows, width))
    cdef const float *mean_ = args.read(mean, "mean", (rows,))
    cdef const float *rstd_ = args.read(rstd, "rstd", (rows,))
    args.apart()
    with nogil:
        for part in range(parts):
            t.layernorm_backward_weight(
                dgamma_, dbeta_, dout_, x_, mean_, rstd_, rows, width, part, parts)


def rmsnorm_forward(out, rstd, x, gamma, float eps=1e-5, *, int parts=1):
    """out = x rstd gamma for each row; saves rstd (rows)."""
    cdef const ck_kernels *t = active
    args = Arguments("rmsnorm_forward", parts)
    cdef int64_t rows, width
    cdef int part
    rows, width = args.rows(x, "x")
    cdef const float *x_ = args.read(x, "x", (rows, width))
    cdef float *out_ = args.write(out, "out", (rows, width))
    cdef float *rstd_ = args.write(rstd, "rstd", (rows,))
    cdef const float *gamma_ = args.read(gamma, "gamma", (width,))
    args.apart((("out", "x"),))
    with nogil:
        for part in range(parts):
            t.rmsnorm_forward(out_, rstd_, x_, gamma_, rows, width, eps, part, parts)


def rmsnorm_backward_input(dx, dout, x, rstd, gamma, residual=None, *, int parts=1):
    """dx = dout through the norm (+ residual). dx may be dout or residual."""
    cdef const ck_kernels *t = active
    args = Arguments("rmsnorm_backward_input", parts)
    cdef int64_t rows, width
    cdef int part
    rows, width = args.rows(x, "x")
    cdef const float *x_ = args.read(x, "x", (rows, width))
    cdef float *dx_ = args.write(dx, "dx", (rows, width))
    cdef const float *dout_ = args.read(dout, "dout", (rows, width))
    cdef const float *rstd_ = args.read(rstd, "rstd", (rows,))
    cdef const float *gamma_ = args.read(gamma, "gamma", (width,))
    cdef const float *residual_ = args.read_optional(residual, "residual", (rows, width))
    args.apart((("dx", "dout"), ("dx", "residual")))
    with nogil:
        for part in range(parts):
            t.rmsnorm_backward_input(
                dx_, dout_, x_, rstd_, gamma_, residual_, rows, width, part, parts)


def rmsnorm_backward_weight(dgamma, dout, x, rstd, *, int parts=1):
    """dgamma += sum of dout x rstd over rows."""
    cdef const ck_kernels *t = active
    args = Arguments("rmsnorm_backward_weight", parts)
    cdef int64_t rows, width
    cdef int part
    rows, width = args.rows(x, "x")
    cdef const float *x_ = args.read(x, "x", (rows, width))
    cdef float *dgamma_ = args.write(dgamma, "dgamma", (width,))
    cdef const float *dout_ = args.read(dout, "dout", (rows, width))
    cdef const float *rstd_ = args.read(rstd, "rstd", (rows,))
    args.apart()
    with nogil:
        for part in range(parts):
            t.rmsnorm_backward_weight(
                dgamma_, dout_, x_, rstd_, rows, width, part, parts)


# ---- activations -----------------------------------------------------------------------

cdef unary(str kernel, unary_kernel f, out, x, int parts):
    args = Arguments(kernel, parts)
    cdef int part
    shape = args.shape(x, "x")
    cdef int64_t n = product(shape)
    cdef const float *x_ = args.read(x, "x", shape)
    cdef float *out_ = args.write(out, "out", shape)
    args.apart((("out", "x"),))
    with nogil:
        for part in range(parts):
            f(out_, x_, n, part, parts)


cdef binary(str kernel, binary_kernel f, out, a, b, int parts, tuple names, tuple aliases):
    args = Arguments(kernel, parts)
    cdef int part
    shape = args.shape(out, names[0])
    cdef int64_t n = product(shape)
    cdef float *out_ = args.write(out, names[0], shape)
    cdef const float *a_ = args.read(a, names[1], shape)
    cdef const float *b_ = args.read(b, names[2], shape)
    args.apart(aliases)
    with nogil:
        for part in range(parts):
            f(out_, a_, b_, n, part, parts)


def relu_forward(out, x, *, int parts=1):
    """out = max(x, 0); out may be x."""
    unary("relu_forward", active.relu_forward, out, x, parts)


def relu_backward(dx, dout, x, *, int parts=1):
    """dx = dout where x > 0, else 0; dx may be dout."""
    binary("relu_backward", active.relu_backward, dx, dout, x, parts,
           ("dx", "dout", "x"), (("dx", "dout"),))


def gelu_forward(out, x, *, int parts=1):
    """out = gelu(x), tanh form; out may be x."""
    unary("gelu_forward", active.gelu_forward, out, x, parts)


def gelu_backward(dx, dout, x, *, int parts=1):
    """dx = dout gelu'(x); dx may be dout."""
    binary("gelu_backward", active.gelu_backward, dx, dout, x, parts,
           ("dx", "dout", "x"), (("dx", "dout"),))


def swiglu_forward(out, gate_up, *, int parts=1):
    """out (rows, hidden) = silu(gate) up, from gate_up (rows, 2 hidden)."""
    cdef const ck_kernels *t = active
    args = Arguments("swiglu_forward", parts)
    cdef int64_t rows, hidden
    cdef int part
    rows, hidden = args.rows(out, "out")
    cdef float *out_ = args.write(out, "out", (rows, hidden))
    cdef const float *gate_up_ = args.read(gate_up, "gate_up", (rows, 2 * hidden))
    args.apart()
    with nogil:
        for part in range(parts):
            t.swiglu_forward(out_, gate_up_, rows, hidden, part, parts)


def swiglu_backward(dgate_up, dout, gate_up, *, int parts=1):
    """dgate_up (rows, 2 hidden), gate's gradient first; may be gate_up."""
    cdef const ck_kernels *t = active
    args = Arguments("swiglu_backward", parts)
    cdef int64_t rows, hidden
    cdef int part
    rows, hidden = args.rows(dout, "dout")
    cdef float *dgate_up_ = args.write(dgate_up, "dgate_up", (rows, 2 * hidden))
    cdef const float *dout_ = args.read(dout, "dout", (rows, hidden))
    cdef const float *gate_up_ = args.read(gate_up, "gate_up", (rows, 2 * hidden))
    args.apart((("dgate_up", "gate_up"),))
    with nogil:
        for part in range(parts):
            t.swiglu_backward(dgate_up_, dout_, gate_up_, rows, hidden, part, parts)


def add(out, a, b, *, int parts=1):
    """out = a + b; out may be a or b."""
    binary("add", active.add, out, a, b, parts, ("out", "a", "b"),
           (("out", "a"), ("out", "b")))


def exp(out, x, *, int parts=1):
    """out = exp(x), as other kernels compute it; out may be x."""
    unary("exp", active.exp, out, x, parts)


def log(out, x, *, int parts=1):
    """out = log(x) for positive normal x; out may be x."""
    unary("log", active.log, out, x, parts)


def sigmoid(out, x, *, int parts=1):
    """out = 1 / (1 + exp(-x)); out may be x."""
    unary("sigmoid", active.sigmoid, out, x, parts)


# ---- embedding and rotary positions ----------------------------------------------------

def embedding_forward(out, tokens, token_table, position_table=None, *, int parts=1):
    """out = token_table[tokens] (+ position_table); tokens (batch, context) int32."""
    cdef const ck_kernels *t = active
    args = Arguments("embedding_forward", parts)
    cdef int64_t batch, context, vocab, width
    cdef int part
    batch, context = args.shape(tokens, "tokens", 2)
    vocab, width = args.shape(token_table, "token_table", 2)
    cdef float *out_ = args.write(out, "out", (batch * context, width))
    cdef const int32_t *tokens_ = args.read_int(tokens, "tokens", (batch, context))
    cdef const float *token_ = args.read(token_table, "token_table", (vocab, width))
    cdef const float *position_ = args.read_optional(
        position_table, "position_table", (context, width))
    args.apart()
    args.indices(tokens_, batch * context, 0, vocab, "tokens")
    with nogil:
        for part in range(parts):
            t.embedding_forward(
                out_, tokens_, token_, position_, batch, context, width, part, parts)


def embedding_backward_weight(dtoken_table, dposition_table, dout, tokens, *, int parts=1):
    """dtoken_table[tokens] += dout, dposition_table (or None) likewise, rows ascending."""
    cdef const ck_kernels *t = active
    args = Arguments("embedding_backward_weight", parts)
    cdef int64_t batch, context, vocab, width
    cdef int part
    batch, context = args.shape(tokens, "tokens", 2)
    vocab, width = args.shape(dtoken_table, "dtoken_table", 2)
    cdef float *dtoken_ = args.write(dtoken_table, "dtoken_table", (vocab, width))
    cdef float *dposition_ = NULL
    if dposition_table is not None:
        dposition_ = args.write(dposition_table, "dposition_table", (context, width))
    cdef const float *dout_ = args.read(dout, "dout", (batch * context, width))
    cdef const int32_t *tokens_ = args.read_int(tokens, "tokens", (batch, context))
    args.apart()
    args.indices(tokens_, batch * context, 0, vocab, "tokens")
    with nogil:
        for part in range(parts):
            t.embedding_backward_weight(
                dtoken_, dposition_, dout_, tokens_, batch, context, width, part, parts)


def rope(x, table, int64_t heads, float sign, *, int parts=1):
    """Rotates the first `heads` heads of x (batch, context, width) in place by table
    (context, head_dim / 2, 2) = (cos, sin); sign +1 forward, -1 backward."""
    cdef const ck_kernels *t = active
    args = Arguments("rope", parts)
    cdef int64_t batch, context, width, half
    cdef int part
    batch, context, width = args.shape(x, "x", 3)
    half = args.shape(table, "table", 3)[1]
    if heads < 0 or heads * 2 * half > width:
        raise ValueError(f"rope: {heads} heads of {2 * half} do not fit a row of {width}")
    cdef float *x_ = args.write(x, "x", (batch, context, width))
    cdef const float *table_ = args.read(table, "table", (context, half, 2))
    args.apart()
    with nogil:
        for part in range(parts):
            t.rope(x_, table_, batch, context, width, heads, 2 * half, sign, part, parts)


# ---- losses ----------------------------------------------------------------------------

def cross_entropy(losses, dlogits, logits, targets, float scale, *, int parts=1):
    """losses (rows) and dlogits = scale (softmax(logits) - onehot(targets)); dlogits may be
    logits, or None for the losses alone. A target of -1 is ignored."""
    cdef const ck_kernels *t = active
    args = Arguments("cross_entropy", parts)
    cdef int64_t rows, vocab
    cdef int part
    rows, vocab = args.rows(logits, "logits")
    cdef float *losses_ = args.write(losses, "losses", (rows,))
    cdef float *dlogits_ = NULL
    if dlogits is not None:
        dlogits_ = args.write(dlogits, "dlogits", (rows, vocab))
    cdef const float *logits_ = args.read(logits, "logits", (rows, vocab))
    cdef const int32_t *targets_ = args.read_int(targets, "targets", (rows,))
    args.apart((("dlogits", "logits"),))
    args.indices(targets_, rows, -1, vocab, "targets")
    with nogil:
        for part in range(parts):
            t.cross_entropy(
                losses_, dlogits_, logits_, targets_, rows, vocab, scale, part, parts)


def mse(losses, dx, x, target, float scale, *, int parts=1):
    """losses (rows) = mean of (x - target)^2; dx = scale 2 / width (x - target)."""
    cdef const ck_kernels *t = active
    args = Arguments("mse", parts)
    cdef int64_t rows, width
    cdef int part
    rows, width = args.rows(x, "x")
    cdef float *losses_ = args.write(losses, "losses", (rows,))
    cdef float *dx_ = args.write(dx, "dx", (rows, width))
    cdef const float *x_ = args.read(x, "x", (rows, width))
    cdef const float *target_ = args.read(target, "target", (rows, width))
    args.apart((("dx", "x"),))
    with nogil:
        for part in range(parts):
            t.mse(losses_, dx_, x_, target_, rows, width, scale, part, parts)


# ---- sums in canonical order -----------------------------------------------------------

cdef double canonical(str kernel, sum_kernel f, x) except? -1.0:
    args = Arguments(kernel, 1)
    shape = args.shape(x, "x")
    cdef int64_t n = product(shape)
    cdef const float *x_ = args.read(x, "x", shape)
    cdef double total
    with nogil:
        total = f(x_, n)
    return total


def sum(x):
    """The sum of all elements in the canonical order of docs/numerics.md."""
    return canonical("sum", active.sum, x)


def sum_squares(x):
    """The sum of all elements' squares in the canonical order of docs/numerics.md."""
    return canonical("sum_squares", active.sum_squares, x)


# ---- optimizers ------------------------------------------------------------------------

def adamw(param, m, v, grad, float lr, float beta1, float beta2, float eps,
          float weight_decay, float correction1, float correction2, float grad_scale, *,
          int parts=1):
    """One AdamW step on param, m and v in place; correction_i is 1 - beta_i^step."""
    cdef const ck_kernels *t = active
    args = Arguments("adamw", parts)
    cdef int part
    shape = args.shape(param, "param")
    cdef int64_t n = product(shape)
    cdef float *param_ = args.write(param, "param", shape)
    cdef float *m_ = args.write(m, "m", shape)
    cdef float *v_ = args.write(v, "v", shape)
    cdef const float *grad_ = args.read(grad, "grad", shape)
    args.apart()
    with nogil:
        for part in range(parts):
            t.adamw(param_, m_, v_, grad_, n, lr, beta1, beta2, eps, weight_decay,
                    correction1, correction2, grad_scale, part, parts)


def sgd(param, buf, grad, float lr, float momentum, float weight_decay, float grad_scale,
        *, int parts=1):
    """One step of SGD with momentum on param and buf in place."""
    cdef const ck_kernels *t = active
    args = Arguments("sgd", parts)
    cdef int part
    shape = args.shape(param, "param")
    cdef int64_t n = product(shape)
    cdef float *param_ = args.write(param, "param", shape)
    cdef float *buf_ = args.write(buf, "buf", shape)
    cdef const float *grad_ = args.read(grad, "grad", shape)
    args.apart()
    with nogil:
        for part in range(parts):
            t.sgd(param_, buf_, grad_, n, lr, momentum, weight_decay, grad_scale, part,
                  parts)
