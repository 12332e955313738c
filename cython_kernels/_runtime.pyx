# cython: language_level=3, boundscheck=False, wraparound=False
# cython: freethreading_compatible=True
"""The pipeline runtime: builds a C engine from flat tables, starts it, watches it.

Checks what would otherwise read or write outside its memory, then calls C without the GIL.
"""

from libc.stdint cimport int32_t, int64_t, uint64_t
from cpython.buffer cimport PyBuffer_FillInfo

from cython_kernels._kernels cimport ck_kernels, table

from cython_kernels import tables


cdef extern from "runtime.h" nogil:
    ctypedef struct rk_config:
        int32_t num_ranks
        int32_t num_stages
        int32_t num_microbatches
        int32_t num_channels
        int32_t num_params
        int32_t gradient_groups
        int32_t copies
        int32_t num_slices
        int32_t num_pieces
        int32_t here
        int64_t ring_events
    ctypedef struct rk_stage_spec:
        pass
    ctypedef struct rk_channel_spec:
        pass
    ctypedef struct rk_param_spec:
        pass
    ctypedef struct rk_transfer:
        pass
    ctypedef struct rk_piece:
        int64_t begin
        int64_t count
        int32_t param
    ctypedef struct rk_tape:
        pass
    ctypedef struct rk_call:
        pass
    ctypedef struct rk_step:
        pass
    ctypedef struct rk_event:
        pass
    ctypedef struct rk_ring:
        pass
    ctypedef struct rk_mpi:
        pass
    ctypedef struct rk_wire:
        pass
    enum: RK_TRAILER
    ctypedef struct rk_data:
        const void *tokens
        const void *targets
        int64_t windows
        uint64_t seed
        int32_t kind
        int32_t sequential
        int64_t stride
    ctypedef struct rk_rank:
        char *arena
        int64_t arena_bytes
        rk_ring ring
    ctypedef struct rk_engine:
        rk_config config
        rk_rank *ranks
        rk_wire *wire
        int error_rank
        int32_t error_counter
        int64_t error_step
        int64_t first_step
    int64_t rk_num_ops()
    const char *rk_op_name(int64_t op)
    rk_engine *rk_create(const rk_config *config, const ck_kernels *kernels,
                         const rk_stage_spec *stages, const rk_channel_spec *channels,
                         const rk_param_spec *params, const rk_piece *pieces,
                         const rk_transfer *transfers, int64_t num_transfers,
                         const rk_tape *tapes,
                         int64_t num_tapes, const rk_call *calls, int64_t num_calls,
                         const int64_t *arena_bytes)
    int rk_set_program(rk_engine *engine, int program, int rank, const rk_step *steps,
                       int64_t count)
    int rk_set_graph(rk_engine *engine, int program, int64_t num_nodes, int64_t num_edges,
                     const int32_t *order, const int32_t *previous,
                     const int32_t *dep_start, const int32_t *dep,
                     const int32_t *node_rank, const int32_t *node_step)
    void rk_destroy(rk_engine *engine)
    int rk_connect(rk_engine *engine, const rk_mpi *mpi)
    void rk_disconnect(rk_engine *engine)
    int rk_start(rk_engine *engine, int program, int64_t first, int64_t last,
                 const rk_data *data, const float *learning_rate, double *losses,
                 double *norms, int64_t time_origin)
    void rk_stop(rk_engine *engine)
    void rk_abort(rk_engine *engine)
    void rk_finish(rk_engine *engine)
    int64_t rk_read(const rk_ring *ring, int64_t *cursor, rk_event *out, int64_t room,
                    int64_t *lost)
    int64_t os_now()


cdef extern from *:
    """
    #include "runtime.h"
    static int rk_error_of(rk_engine *e) { return atomic_load(&e->error); }
    static int rk_running_of(rk_engine *e) { return atomic_load(&e->running); }
    static int64_t rk_done_of(rk_engine *e) { return atomic_load(&e->done_steps); }
    static int64_t rk_last_of(rk_engine *e) { return atomic_load(&e->last_step); }
    static int32_t rk_counter_of(rk_engine *e, int r) {
        return atomic_load(&e->ranks[r].counter);
    }
    static int64_t rk_step_of(rk_engine *e, int r) {
        return atomic_load(&e->ranks[r].at_step);
    }
    """
    int rk_error_of(rk_engine *e) nogil
    int rk_running_of(rk_engine *e) nogil
    int64_t rk_done_of(rk_engine *e) nogil
    int64_t rk_last_of(rk_engine *e) nogil
    int32_t rk_counter_of(rk_engine *e, int r) nogil
    int64_t rk_step_of(rk_engine *e, int r) nogil


OPS = {rk_op_name(i).decode(): i for i in range(rk_num_ops())}


def now():
    """Nanoseconds of the clock that the recorder uses."""
    return os_now()


def _check_layouts():
    sizes = {
        "CALL": sizeof(rk_call),
        "TAPE": sizeof(rk_tape),
        "STAGE": sizeof(rk_stage_spec),
        "CHANNEL": sizeof(rk_channel_spec),
        "PARAM": sizeof(rk_param_spec),
        "PIECE": sizeof(rk_piece),
        "TRANSFER": sizeof(rk_transfer),
        "STEP": sizeof(rk_step),
        "CONFIG": sizeof(rk_config),
        "EVENT": sizeof(rk_event),
        "MPI": sizeof(rk_mpi),
    }
    for name, size in sizes.items():
        if getattr(tables, name).itemsize != size:
            raise ImportError(f"cython_kernels.tables.{name} is not laid out as in runtime.h")
    if tables.TRAILER != RK_TRAILER:
        raise ImportError("cython_kernels.tables.TRAILER is not as in wire.h")


_check_layouts()


cdef const unsigned char[::1] _raw(array, dtype, str name):
    if array.dtype != dtype or not array.flags.c_contiguous or array.ndim != 1:
        raise ValueError(f"{name}: expected a contiguous 1-d array of {dtype}")
    return array.view("u1") if array.size else None


cdef const void *_start(const unsigned char[::1] view) noexcept nogil:
    return NULL if view is None else &view[0]


cdef class Arena:
    """The memory of one rank, as a writable buffer; keeps its engine alive."""

    cdef Engine engine
    cdef int rank

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        cdef rk_rank *rank = &self.engine.engine.ranks[self.rank]
        PyBuffer_FillInfo(buffer, self, rank.arena, rank.arena_bytes, 0, flags)


cdef class Engine:
    """A C engine.

    The tables are 1-d arrays of the dtypes in ``cython_kernels.tables``; ``arena_bytes`` is
    int64, one per rank. Raises ValueError for a table of another type and MemoryError when
    the system has no room for the arenas. The caller vouches for what the tables point at:
    ``workbench.engine`` builds them from a checked plan.
    """

    cdef rk_engine *engine
    cdef rk_data data
    cdef object keep
    cdef bint started

    def __cinit__(self, config, stages, channels, params, pieces, transfers, tapes, calls,
                  arena_bytes):
        cdef const unsigned char[::1] c = _raw(config, tables.CONFIG, "config")
        cdef const unsigned char[::1] s = _raw(stages, tables.STAGE, "stages")
        cdef const unsigned char[::1] h = _raw(channels, tables.CHANNEL, "channels")
        cdef const unsigned char[::1] p = _raw(params, tables.PARAM, "params")
        cdef const unsigned char[::1] i = _raw(pieces, tables.PIECE, "pieces")
        cdef const unsigned char[::1] x = _raw(transfers, tables.TRANSFER, "transfers")
        cdef const unsigned char[::1] r = _raw(tapes, tables.TAPE, "tapes")
        cdef const unsigned char[::1] t = _raw(calls, tables.CALL, "calls")
        cdef const int64_t[::1] arenas = arena_bytes
        cdef int64_t num_calls = len(calls), num_tapes = len(tapes)
        cdef const rk_config *options = <const rk_config *>_start(c)
        if c is None or s is None or len(arenas) != options.num_ranks:
            raise ValueError("an engine needs a config, stages and one arena per rank")
        if len(stages) != options.num_stages or len(channels) != options.num_channels:
            raise ValueError("config and tables disagree about stages or channels")
        if len(params) != options.num_params or len(pieces) != options.num_pieces:
            raise ValueError("config and tables disagree about parameters or their pieces")
        if (options.copies < 1 or options.num_stages % options.copies
                or options.num_params % options.copies
                or options.gradient_groups % options.copies):
            raise ValueError("copies must share out stages, parameters and gradient groups")
        if num_tapes != 3 * options.num_slices * options.num_stages:
            raise ValueError("every slice of every stage needs three tapes")
        if not -1 <= options.here < options.num_ranks:
            raise ValueError(f"rank {options.here} of {options.num_ranks} cannot be here")
        if options.ring_events < 2 or options.ring_events & (options.ring_events - 1):
            raise ValueError("ring_events must be a power of two")
        self.engine = rk_create(options, table(), <const rk_stage_spec *>_start(s),
                                <const rk_channel_spec *>_start(h),
                                <const rk_param_spec *>_start(p),
                                <const rk_piece *>_start(i),
                                <const rk_transfer *>_start(x), len(transfers),
                                <const rk_tape *>_start(r), num_tapes,
                                <const rk_call *>_start(t), num_calls, &arenas[0])
        if self.engine == NULL:
            total = sum(arena_bytes) / 2**20
            raise MemoryError(f"the system has no room for arenas of {total:.0f} MiB")

    def __dealloc__(self):
        if self.engine != NULL:
            if self.started:
                rk_abort(self.engine)
                with nogil:
                    rk_finish(self.engine)
            with nogil:
                rk_destroy(self.engine)

    cdef int _check_rank(self, int rank) except -1:
        cdef int here = self.engine.config.here
        if not 0 <= rank < self.engine.config.num_ranks:
            raise IndexError(f"rank {rank} of {self.engine.config.num_ranks}")
        if here >= 0 and rank != here:
            raise IndexError(f"rank {rank} is in another process; here is rank {here}")
        return 0

    def connect(self, mpi):
        """Joins the ranks of other processes, once. mpi: one row of ``tables.MPI``.

        While a request is under way MPI is called by the rank's thread alone, and nobody
        else may call it. ``disconnect`` before MPI is finalized, and before another engine
        uses the same communicators.
        """
        cdef const unsigned char[::1] view = _raw(mpi, tables.MPI, "mpi")
        cdef int done
        if self.engine.config.here < 0 or self.engine.wire != NULL:
            raise RuntimeError("this engine has no ranks elsewhere, or is connected already")
        with nogil:
            done = rk_connect(self.engine, <const rk_mpi *>_start(view))
        if not done:
            raise MemoryError("no room for the channels to other processes")

    def disconnect(self):
        """Leaves the other processes; only between requests. The engine cannot start again."""
        if self.started:
            raise RuntimeError("this engine is running: finish first")
        with nogil:
            rk_disconnect(self.engine)

    def arena(self, int rank):
        """The rank's memory as a writable buffer of bytes."""
        self._check_rank(rank)
        cdef Arena arena = Arena.__new__(Arena)
        arena.engine = self
        arena.rank = rank
        return arena

    def set_program(self, int program, int rank, steps):
        cdef const unsigned char[::1] view = _raw(steps, tables.STEP, "steps")
        if not rk_set_program(self.engine, program, rank, <const rk_step *>_start(view),
                              len(steps)):
            raise MemoryError("no room for a program")

    def set_graph(self, int program, const int32_t[::1] order, const int32_t[::1] previous,
                  const int32_t[::1] dep_start, const int32_t[::1] dep,
                  const int32_t[::1] node_rank, const int32_t[::1] node_step):
        """Gives the program's dependences, which the virtual clock needs."""
        cdef int64_t n = order.shape[0], edges = dep.shape[0]
        if not (previous.shape[0] == node_rank.shape[0] == node_step.shape[0] == n
                and dep_start.shape[0] == n + 1):
            raise ValueError("the graph's arrays have different lengths")
        if not rk_set_graph(self.engine, program, n, edges, &order[0], &previous[0],
                            &dep_start[0], &dep[0] if edges else NULL, &node_rank[0],
                            &node_step[0]):
            raise MemoryError("no room for a program's graph")

    def start(self, int program, int64_t first, int64_t last, inputs, targets, int kind,
              int64_t windows, uint64_t seed, int sequential, int64_t stride,
              const float[::1] learning_rate, double[:, ::1] losses, double[::1] norms,
              int64_t time_origin):
        """Starts the ranks on steps first..last-1 and returns at once.

        losses: (last - first, num_microbatches), norms: (last - first,), filled as steps end;
        learning_rate is indexed by the absolute step. `inputs` and `targets` are buffers of
        tokens (kind = bytes per token, targets unused) or of float rows (kind 0).
        """
        cdef const unsigned char[::1] first_buffer = inputs.reshape(-1).view("u1")
        cdef const unsigned char[::1] second_buffer = targets.reshape(-1).view("u1")
        if self.started:
            raise RuntimeError("this engine is running already")
        if self.engine.config.here >= 0 and self.engine.wire == NULL:
            raise RuntimeError("connect this engine to the other processes first")
        if not (losses.shape[0] == norms.shape[0] == last - first > 0):
            raise ValueError("losses and norms need one row per step")
        if losses.shape[1] != self.engine.config.num_microbatches:
            raise ValueError("losses needs one column per microbatch")
        if program == tables.TRAIN and learning_rate.shape[0] < last:
            raise ValueError("learning_rate ends before the last step")
        if windows < 1:
            raise ValueError("there is no position at which a sample could start")
        self.data = rk_data(&first_buffer[0], &second_buffer[0], windows, seed, kind,
                            sequential, stride)
        self.keep = (inputs, targets, learning_rate, losses, norms)
        cdef int error = rk_start(self.engine, program, first, last, &self.data,
                                  &learning_rate[0], &losses[0, 0], &norms[0], time_origin)
        if error:
            raise OSError("the system did not start a thread for every rank")
        self.started = True

    def stop(self):
        """Ends the request at the end of the step under way."""
        rk_stop(self.engine)

    def abort(self):
        """Ends the request in the middle of a step."""
        rk_abort(self.engine)

    def finish(self):
        """Waits until every rank has ended; returns the number of the step to go on with."""
        with nogil:
            rk_finish(self.engine)
        self.started = False
        return self.engine.first_step + rk_done_of(self.engine)

    @property
    def running(self):
        return self.started and rk_running_of(self.engine) > 0

    @property
    def done_steps(self):
        """Steps of this request whose update is complete on every rank."""
        return rk_done_of(self.engine)

    @property
    def error(self):
        """(name, rank, program counter, step) of the first error, or None."""
        cdef int error = rk_error_of(self.engine)
        if not error:
            return None
        return (tables.ERRORS[error], self.engine.error_rank, self.engine.error_counter,
                self.engine.error_step)

    def positions(self):
        """(step, program counter) of every rank: where each stands now."""
        return [(rk_step_of(self.engine, r), rk_counter_of(self.engine, r))
                for r in range(self.engine.config.num_ranks)]

    def read_events(self, int rank, int64_t cursor, out):
        """Copies the rank's events since `cursor` into `out` (EVENT dtype).

        Returns (events copied, new cursor, events that were overwritten before this read).
        """
        self._check_rank(rank)
        if out.dtype != tables.EVENT or not out.flags.c_contiguous or not out.size:
            raise ValueError("out: expected a contiguous array of tables.EVENT")
        cdef unsigned char[::1] view = out.view("u1")
        cdef int64_t lost = 0, at = cursor, room = len(out), count
        with nogil:
            count = rk_read(&self.engine.ranks[rank].ring, &at, <rk_event *>&view[0], room,
                            &lost)
        return count, at, lost
