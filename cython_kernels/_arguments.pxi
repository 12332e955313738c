# The arguments of one kernel call: buffers held, checked one by one, and compared for overlap.
from cpython.buffer cimport (
    Py_buffer, PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release,
    PyObject_CheckBuffer, PyObject_GetBuffer)
from libc.stdint cimport int32_t, int64_t, uintptr_t

cdef enum:
    MOST_ARGUMENTS = 12


cdef class Arguments:
    """Buffers that are checked as they are taken and released with this object.

    Every check raises ValueError naming the kernel, the argument and what was expected.
    """
    cdef str kernel
    cdef int parts, count
    cdef Py_buffer views[MOST_ARGUMENTS]
    cdef bint written[MOST_ARGUMENTS]
    cdef list names

    def __cinit__(self, str kernel, parts):
        self.kernel = kernel
        self.names = []
        if parts < 1:
            raise ValueError(f"{kernel}: parts is {parts}, not 1 or more")
        self.parts = parts

    def __dealloc__(self):
        for i in range(self.count):
            PyBuffer_Release(&self.views[i])

    cdef Py_buffer *acquire(self, array, str name, str dtype, bint writes) except NULL:
        cdef Py_buffer *view = &self.views[self.count]
        if not PyObject_CheckBuffer(array):
            kind = type(array).__name__
            raise ValueError(f"{self.kernel}: {name} is a {kind}, not a {dtype} array")
        try:
            PyObject_GetBuffer(
                array, view, PyBUF_FORMAT | PyBUF_STRIDES | (PyBUF_WRITABLE if writes else 0))
        except (BufferError, ValueError) as error:
            raise ValueError(f"{self.kernel}: {name} cannot be used: {error}") from None
        self.written[self.count] = writes
        self.names.append(name)
        self.count += 1
        format = view.format.decode().lstrip("@=")
        if view.itemsize != 4 or format not in ("f" if dtype == "float32" else "il"):
            raise ValueError(
                f"{self.kernel}: {name} holds {view.itemsize}-byte '{format}', not {dtype}")
        if <uintptr_t>view.buf % 4 or any(view.strides[i] % 4 for i in range(view.ndim)):
            raise ValueError(f"{self.kernel}: {name} is not aligned to 4 bytes")
        return view

    cdef void *take(self, array, str name, tuple shape, dtype, bint writes) except? NULL:
        """A C-contiguous array. `shape` (rows, width) also takes (a, b, width), a * b rows."""
        cdef Py_buffer *view = self.acquire(array, name, dtype, writes)
        cdef int64_t step = 4
        found = tuple([view.shape[i] for i in range(view.ndim)])
        if found != shape and not (
                len(shape) == 2 and len(found) > 2 and rows_of(found) == shape):
            raise ValueError(f"{self.kernel}: {name} is {found} but should be {shape}")
        for i in reversed(range(view.ndim)):
            if view.shape[i] > 1 and view.strides[i] != step and 0 not in found:
                raise ValueError(f"{self.kernel}: {name} is not C-contiguous")
            step *= view.shape[i]
        return view.buf

    cdef void *take_rows(self, array, str name, int64_t *stride, bint writes) except? NULL:
        """A matrix of unit column stride; all matrices of a call share one row stride."""
        cdef Py_buffer *view = self.acquire(array, name, "float32", writes)
        cdef int64_t m = view.shape[0], n = view.shape[1]
        cdef int64_t found = view.strides[0] // 4 if m > 1 else n
        if n > 1 and view.strides[1] != 4:
            raise ValueError(f"{self.kernel}: {name}'s columns are not next to each other")
        if found < n:
            raise ValueError(f"{self.kernel}: {name} has {n} columns, row stride {found}")
        if stride[0] and m > 1 and found != stride[0]:
            raise ValueError(
                f"{self.kernel}: {name} has row stride {found} but c has {stride[0]}")
        stride[0] = found
        return view.buf

    cdef const float *read(self, array, str name, tuple shape) except? NULL:
        return <const float *>self.take(array, name, shape, "float32", False)

    cdef const float *read_optional(self, array, str name, tuple shape) except? NULL:
        if array is None:
            return NULL
        return self.read(array, name, shape)

    cdef const int32_t *read_int(self, array, str name, tuple shape) except? NULL:
        return <const int32_t *>self.take(array, name, shape, "int32", False)

    cdef float *write(self, array, str name, tuple shape) except? NULL:
        return <float *>self.take(array, name, shape, "float32", True)

    cdef tuple shape(self, array, str name, int ndim=0):
        """The shape of an array with at least, or exactly, ndim dimensions."""
        shape = getattr(array, "shape", None)
        if not isinstance(shape, tuple):
            kind = type(array).__name__
            raise ValueError(f"{self.kernel}: {name} is a {kind}, not an array")
        if ndim and len(shape) != ndim:
            raise ValueError(f"{self.kernel}: {name} is {shape}, not {ndim}-dimensional")
        return shape

    cdef tuple rows(self, array, str name):
        """(rows, width) of an array whose leading dimensions together count rows."""
        shape = self.shape(array, name)
        if len(shape) < 2:
            raise ValueError(f"{self.kernel}: {name} is {shape}, not (..., rows, width)")
        return rows_of(shape)

    cdef int apart(self, tuple aliases=()) except -1:
        """Refuses outputs that share memory with another argument, but for the pairs in
        `aliases` (output, input), which may be one and the same array."""
        cdef uintptr_t a, a_end, b, b_end
        for i in range(self.count):
            if not self.written[i]:
                continue
            extent(&self.views[i], &a, &a_end)
            for j in range(self.count):
                extent(&self.views[j], &b, &b_end)
                if i == j or a >= b_end or b >= a_end:
                    continue
                same = a == b and a_end == b_end
                if not (same and (self.names[i], self.names[j]) in aliases):
                    raise ValueError(
                        f"{self.kernel}: {self.names[i]} overlaps {self.names[j]}")
        return 0

    cdef int indices(self, const int32_t *index, int64_t n, int low, int64_t high,
                     str name) except -1:
        for i in range(n):
            if index[i] < low or index[i] >= high:
                raise ValueError(
                    f"{self.kernel}: {name} holds {index[i]}, not in [{low}, {high})")
        return 0


cdef int64_t product(shape):
    cdef int64_t total = 1
    for n in shape:
        total *= n
    return total


cdef tuple rows_of(tuple shape):
    return product(shape[:len(shape) - 1]), shape[len(shape) - 1]


cdef void extent(const Py_buffer *view, uintptr_t *begin, uintptr_t *end) noexcept:
    """The bytes from an array's lowest element to the end of its highest."""
    begin[0] = end[0] = <uintptr_t>view.buf
    for i in range(view.ndim):
        if view.shape[i] == 0:
            end[0] = begin[0]
            return
        reach = (view.shape[i] - 1) * view.strides[i]
        if reach < 0:
            begin[0] += reach
        else:
            end[0] += reach
    end[0] += view.itemsize
