/* runtime.h - the engine core: ranks that run their programs over tapes, in C, without Python.
 *
 * Everything an engine needs is given as flat tables (the structs named *_spec below), built
 * ahead of time by workbench.engine. The engine decides nothing: a rank walks its program,
 * looks up the tape of each action, waits where the action must wait, and records what it did.
 *
 *   engine.c    tables, run control
 *   rank.c      the loop of a rank: its program, its channels, its waits
 *   optimizer.c the end of a step: gradients added up, the norm agreed on, weights updated
 *   virtual.c   the loop of all ranks under the virtual clock
 *   tape.c      one call of a tape -> one kernel, with operands resolved per microbatch
 *   team.c      the small team of threads that shares the tapes of one rank
 *   channel.c   stage to stage: bounded rings of buffers, handed over without a copy
 *   wire.c      the same between processes, over MPI
 *   exchange.c  gradients and weights between processes, at the end of a step
 *   recorder.c  per-rank event ring, read by others at their own pace
 *   os.c        the operating system
 */
#ifndef RK_RUNTIME_H
#define RK_RUNTIME_H

#include <stdatomic.h>
#include <stdint.h>

#include "kernels.h"
#include "kinds.h"
#include "os.h"
#include "timeline.h"
#include "wire.h"

/* ---- tables -------------------------------------------------------------------------------*/

/* Where an operand lives. All but the four channel regions are offsets into the rank's arena. */
enum rk_region {
    RK_PARAM,
    RK_GRAD,     /* of the microbatch's gradient group */
    RK_CONSTANT, /* tables that never change, e.g. rotary angles */
    RK_SCRATCH,  /* dead when the tape ends */
    RK_SAVED,    /* from F to W, one slot per microbatch in flight */
    RK_HELD,     /* from I to W, one slot per microbatch between the two */
    RK_INPUT,    /* from the stage before */
    RK_OUTPUT,   /* to the stage after */
    RK_DOUTPUT,  /* gradient from the stage after */
    RK_DINPUT,   /* gradient to the stage before */
    RK_NUM_REGIONS
};

enum { RK_MAX_POINTERS = 8, RK_MAX_SIZES = 9, RK_MAX_SCALARS = 2 };

typedef struct rk_call {
    int64_t offset[RK_MAX_POINTERS];
    int64_t size[RK_MAX_SIZES];
    float scalar[RK_MAX_SCALARS];
    int32_t op;
    int32_t region[RK_MAX_POINTERS]; /* -1: a NULL pointer */
    int32_t unused;
} rk_call;

enum { RK_TAPE_F, RK_TAPE_I, RK_TAPE_W, RK_NUM_TAPES };

typedef struct rk_tape {
    int32_t first, count; /* calls */
} rk_tape;

typedef struct rk_stage_spec {
    int64_t param, grad, constant, scratch, saved, held; /* offsets into the rank's arena */
    int64_t spare;                                       /* where R's output goes, unread */
    int64_t grad_stride, saved_stride, held_stride;      /* bytes per group or slot */
    int32_t rank;
    int32_t tapes; /* its first: RK_NUM_TAPES for each slice */
    int32_t channel_in, channel_out;   /* activations in, out; -1 at the ends */
    int32_t channel_din, channel_dout; /* gradient to the stage before, from the stage after */
    int32_t param_first, param_count;
    int32_t reduce_first, reduce_count; /* pieces whose gradients it adds up for all holders */
    int32_t update_first, update_count; /* pieces that it updates */
} rk_stage_spec;

typedef struct rk_channel_spec {
    int64_t offset; /* of its buffers in the consumer's arena */
    /* Between processes the producer has buffers in its own arena, too; each then ends with
     * room for a trailer. */
    int64_t source_offset;
    int64_t buffer_bytes;
    int32_t producer, consumer; /* ranks; equal: a local hand-over, never waited for */
    int32_t num_buffers;
    int32_t capacity; /* messages that may wait; 0: rendezvous */
    int32_t source_buffers;
    int32_t unused;
} rk_channel_spec;

/* A parameter as a stage holds it. A tied parameter is held by each of its uses, in layer order;
 * the uses are numbered among the first copy's parameters. */
typedef struct rk_param_spec {
    int64_t offset; /* into the stage's parameters, and into its gradients */
    int64_t count;
    float weight_decay;
    int32_t stage;
    int32_t first_use; /* itself, if it is not tied to an earlier one */
    int32_t next_use;  /* -1: it is the last, or the only one */
} rk_param_spec;

/* Some elements of one of a stage's parameters; `begin` is a multiple of RK_BLOCK. */
typedef struct rk_piece {
    int64_t begin, count;
    int64_t first_moment, second_moment; /* offsets into the arena; updated pieces only */
    int32_t param, unused;
} rk_piece;

/* What goes from a holder in one process to a holder in another: the sum over some of the source's
 * own gradient groups, to the piece's owner; the piece's total, or its new weights, from there. */
enum rk_transfer_kind { RK_ROOT, RK_TOTAL, RK_WEIGHTS, RK_NUM_TRANSFERS };

typedef struct rk_transfer {
    int64_t source_offset, target_offset; /* into the arenas */
    int64_t bytes;
    int32_t kind, source, target; /* ranks */
    int32_t stage;                /* not the owner's, but that of the other end */
    int32_t piece;                /* of the owner's */
    int32_t param, group;         /* of a root: whose, and its first group */
    int32_t tag;                  /* one of its own among those from source to target */
} rk_transfer;

/* Elements that are added to a sum of squares together: the block of kernels/reduce.c. */
enum { RK_BLOCK = 4096 };

typedef struct rk_step {
    int64_t bytes; /* what a message carries */
    int64_t live;  /* bytes of activations that the rank holds when the step ends */
    int32_t kind, stage, microbatch, slice;
    int32_t saved_slot, held_slot;
    int32_t group; /* of gradients, counted within the copy */
    int32_t unused;
} rk_step;

enum rk_optimizer { RK_ADAMW, RK_SGD };

typedef struct rk_config {
    double beta1, beta2, epsilon; /* beta1 is SGD's momentum */
    double clip;                  /* largest global gradient norm; 0: no clipping */
    double wait_limit;            /* seconds a wait may last before the run ends */
    int64_t ring_events;          /* recorder ring per rank, a power of two */
    int32_t num_ranks, num_stages, num_microbatches, num_channels, num_params;
    int32_t gradient_groups, threads_per_rank, batch, optimizer;
    int32_t spin;           /* 1: every thread has a core of its own */
    int32_t virtual_clock;  /* 1: ranks run one after another; their times are assembled */
    int32_t keep_gradients; /* 1: a step's gradients stay until the next step begins */
    /* Of the parameters. Stage s and s + num_stages / copies share theirs; each copy has an
     * equal share of the gradient groups, in order. */
    int32_t copies;
    int32_t num_slices; /* that sequences are cut into */
    int32_t here;       /* the rank of this process; -1: all ranks are threads of it */
    int32_t num_pieces;
    int32_t zero; /* 1: an updated piece is handed to the other holders of its parameter */
    int32_t unused;
} rk_config;

/* Where samples come from. kind: bytes of a token (1, 2, 4), or 0 for float rows. */
typedef struct rk_data {
    const void *tokens; /* or rows of inputs */
    const void *targets;
    int64_t windows; /* number of positions a sample may start at */
    uint64_t seed;
    int32_t kind;
    int32_t sequential; /* 1: sample i starts at i * stride (evaluation) */
    int64_t stride;
} rk_data;

/* ---- recorder ---------------------------------------------------------------------------- */

typedef struct rk_event {
    int64_t start, end, bytes, live;
    int32_t step, microbatch, stage;
    int16_t rank, slice, kind, lane;
    int32_t unused;
} rk_event;

enum rk_lane { RK_LANE_COMPUTE, RK_LANE_WAIT, RK_LANE_OPTIMIZER };

typedef struct rk_ring {
    rk_event *events;
    int64_t mask;
    _Alignas(64) _Atomic int64_t head; /* events ever written */
} rk_ring;

void rk_record(rk_ring *ring, const rk_event *event);
/* Copies up to `room` events from *cursor on, advances it, adds overwritten ones to *lost. */
int64_t rk_read(const rk_ring *ring, int64_t *cursor, rk_event *out, int64_t room, int64_t *lost);

/* ---- channels ---------------------------------------------------------------------------- */

/* A single-producer single-consumer ring of pointers. */
typedef struct rk_queue {
    void **slots;
    int32_t *tags;
    int64_t size;
    _Alignas(64) _Atomic int64_t written;
    _Alignas(64) _Atomic int64_t read;
} rk_queue;

typedef struct rk_channel {
    rk_channel_spec spec;
    rk_queue full;  /* producer -> consumer: messages */
    rk_queue empty; /* consumer -> producer: buffers to fill again */
    _Alignas(64) _Atomic int64_t waiting; /* messages the consumer has come to receive */
    char *buffers;      /* the first, in the arena of this process's end */
    int32_t num_buffers;
    void *remote; /* wire.c's, if the other end is in another process */
} rk_channel;

int rk_push(rk_queue *queue, void *pointer, int32_t tag);
void *rk_pop(rk_queue *queue, int32_t *tag); /* NULL when empty */
int64_t rk_queued(const rk_queue *queue);

/* ---- engine ------------------------------------------------------------------------------ */

enum rk_error { RK_OK, RK_STALLED, RK_ABORTED, RK_NONFINITE, RK_MISMATCHED, RK_NO_THREAD, RK_BROKEN };
enum rk_program { RK_TRAIN, RK_EVALUATE, RK_NUM_PROGRAMS };

typedef struct rk_bell { /* what a sleeping rank listens to */
    _Alignas(64) _Atomic uint32_t rung;
    _Atomic int sleeping;
} rk_bell;

typedef struct rk_engine rk_engine;

typedef struct rk_team {
    int size;
    rk_engine *engine;
    os_thread **threads;
    struct rk_team_seat *seats;
    const rk_call *calls; /* the tape being shared */
    int32_t count;
    const struct rk_place *place;
    _Alignas(64) _Atomic uint32_t epoch; /* tapes started */
    _Alignas(64) _Atomic int32_t arrived;
    _Alignas(64) _Atomic uint32_t phase;
    _Atomic int quit;
} rk_team;

/* What a call's operands and samples resolve against. */
typedef struct rk_place {
    char *base[RK_NUM_REGIONS];
    const rk_data *data;
    double *loss; /* where a loss call leaves the microbatch's mean */
    int64_t step;
    int32_t microbatch;
    int32_t num_microbatches;
} rk_place;

typedef struct rk_rank {
    rk_engine *engine;
    int index;
    char *arena;
    int64_t arena_bytes;
    rk_step *steps[RK_NUM_PROGRAMS];
    int32_t num_steps[RK_NUM_PROGRAMS];
    rk_ring ring;
    rk_bell bell;
    rk_team *team; /* its own, or under the virtual clock, where one rank runs at a time, rank 0's */
    rk_team own_team;
    os_thread *thread;
    _Atomic int32_t counter; /* program counter, for whoever asks why nothing moves */
    _Atomic int64_t at_step;
    double scale;            /* of this step's gradients, by clipping */
    int32_t pending;         /* its stages whose share of the gradients is still to be added */
} rk_rank;

typedef struct rk_stage {
    rk_stage_spec spec;
    void **input, **output, **doutput, **dinput; /* per microbatch and slice */
    const rk_step *due; /* its REDUCE_GRAD, while pieces are still to be added up */
    int32_t next_piece; /* the first of those */
    int32_t node;       /* of its REDUCE_GRAD, under the virtual clock */
} rk_stage;

struct rk_engine {
    rk_config config;
    const ck_kernels *kernels;
    int here;            /* as in the config */
    int32_t stages_here; /* of this process's ranks */
    rk_wire *wire;       /* NULL: no other processes */
    struct rk_exchange *exchange; /* NULL: nor do they hold what is held here */
    rk_rank *ranks;
    rk_stage *stages;
    rk_channel *channels;
    rk_param_spec *params;
    rk_piece *pieces;
    rk_tape *tapes;
    rk_call *calls;
    int32_t num_calls;
    int64_t *first_block; /* per parameter of the first copy, and one more: blocks before it */
    double *square_sums;  /* per such block, doubled by step parity */
    /* Per stage, over this request's steps: REDUCE_GRADs, and OPT_STEPs that have handed their
     * weights out. */
    _Atomic int64_t *gathered, *refreshed;
    /* The virtual clock's evaluator, per program; absent under the wall clock. */
    tl_graph graph[RK_NUM_PROGRAMS];
    int32_t *node_rank[RK_NUM_PROGRAMS], *node_step[RK_NUM_PROGRAMS];
    int64_t *virtual_times; /* duration, origin, start, ready, end: 5 x nodes */
    int64_t *rank_end;      /* where each rank's virtual clock stands */
    /* One request: program, steps [first, last), data, results. */
    int program;
    int64_t first_step;
    _Atomic int64_t last_step;
    const rk_data *data;
    const float *learning_rate; /* per step since 0 */
    double *losses;             /* (steps, num_microbatches), since first_step */
    double *norms;              /* per step since first_step */
    int64_t time_origin;
    _Atomic int64_t done_steps; /* steps whose update is complete on every rank */
    _Atomic int64_t arrived;    /* stages whose gradients are ready, over this request's steps */
    _Atomic int64_t reduced;    /* the same, but only whole steps are counted */
    _Atomic int64_t updated;    /* stages updated */
    _Atomic int stop_requested;
    _Atomic int running; /* ranks still at work */
    _Atomic int error;   /* first rk_error */
    int error_rank;
    int32_t error_counter;
    int64_t error_step;
};

int64_t rk_num_ops(void);
const char *rk_op_name(int64_t op);

/* Tables are copied. NULL: out of memory. arena_bytes: per rank. */
rk_engine *rk_create(const rk_config *config, const ck_kernels *kernels,
                     const rk_stage_spec *stages, const rk_channel_spec *channels,
                     const rk_param_spec *params, const rk_piece *pieces,
                     const rk_transfer *transfers, int64_t num_transfers,
                     const rk_tape *tapes, int64_t num_tapes,
                     const rk_call *calls, int64_t num_calls, const int64_t *arena_bytes);
int rk_set_program(rk_engine *engine, int program, int rank, const rk_step *steps, int64_t count);
/* Gives the program's dependence graph, which the virtual clock needs. */
int rk_set_graph(rk_engine *engine, int program, int64_t num_nodes, int64_t num_edges,
                 const int32_t *order, const int32_t *previous, const int32_t *dep_start,
                 const int32_t *dep, const int32_t *node_rank, const int32_t *node_step);
void rk_destroy(rk_engine *engine);
/* Joins the other processes' ranks; 0: out of memory. Once, before the first rk_start. */
int rk_connect(rk_engine *engine, const rk_mpi *mpi);
void rk_disconnect(rk_engine *engine);

/* Starts the ranks on steps [first, last); returns at once. RK_NO_THREAD if one did not start.
 * The arrays must outlive the request. */
int rk_start(rk_engine *engine, int program, int64_t first, int64_t last, const rk_data *data,
             const float *learning_rate, double *losses, double *norms, int64_t time_origin);
/* Ends the request at the end of the step that is under way. */
void rk_stop(rk_engine *engine);
/* Ends it as soon as every rank notices, in the middle of a step. */
void rk_abort(rk_engine *engine);
/* Waits for the ranks to have ended, frees their threads. */
void rk_finish(rk_engine *engine);

/* ---- between the files of this folder ------------------------------------------------------ */

void rk_run_tape(rk_team *team, const rk_call *calls, int32_t count, const rk_place *place);
void rk_run_call(const ck_kernels *kernels, const rk_call *call, const rk_place *place, int part,
                 int parts);
int rk_team_create(rk_team *team, rk_engine *engine, int size);
void rk_team_destroy(rk_team *team);

/* Of `here`'s end of the channel; -1: of both. */
int rk_channel_create(rk_channel *channel, const rk_channel_spec *spec, char *arena, int here);
void rk_channel_destroy(rk_channel *channel);
void rk_channel_reset(rk_channel *channel);
int rk_is_here(const rk_engine *engine, int rank);
/* 1 if just one end of the channel is in this process. */
int rk_is_remote(const rk_engine *engine, const rk_channel_spec *spec);

void rk_ring_bell(rk_engine *engine, int rank);
void rk_ring_all(rk_engine *engine);
void rk_fail(rk_engine *engine, int error, const rk_rank *rank);

/* Spins while that is cheap, then gives the core away, then sleeps until the rank's bell is
 * rung. 0: the run has failed meanwhile. */
typedef int (*rk_condition)(rk_rank *rank, const rk_step *step);
int rk_wait_until(rk_rank *rank, rk_condition met, const rk_step *step);

/* Forgets what other processes told of an earlier step. */
void rk_begin_sums(rk_rank *rank);
/* REDUCE_GRAD: adds up the copy's own gradient groups. What needs the other copies' is the
 * rank's share, which rk_share adds up, now or as soon as they are there. */
void rk_reduce(rk_rank *rank, const rk_step *step);
/* Of one stage whose other holders have come, if there is any: returns its REDUCE_GRAD, NULL if
 * nothing can be done now. */
const rk_step *rk_share(rk_rank *rank);
int rk_share_ready(rk_rank *rank, const rk_step *step);
void rk_forget_shares(rk_rank *rank);
int rk_all_reduced(rk_rank *rank, const rk_step *step);
/* Called once per rank and step, when all gradients are ready. 0: the step must not be applied. */
int rk_agree(rk_rank *rank);
void rk_clear_gradients(rk_rank *rank);
void rk_update(rk_rank *rank, const rk_step *step);
/* Are all weights that other holders update for this rank's stages there? */
int rk_all_refreshed(rk_rank *rank, const rk_step *step);

/* exchange.c; all of it does nothing where `exchange` is NULL. */
typedef struct rk_exchange rk_exchange;
rk_exchange *rk_exchange_create(rk_engine *engine, const rk_transfer *specs, int64_t count);
int rk_exchange_settle(rk_exchange *exchange);
void rk_exchange_destroy(rk_exchange *exchange);
void rk_exchange_begin_step(rk_exchange *exchange);
void rk_exchange_poll(rk_exchange *exchange);
void rk_exchange_receive(rk_exchange *exchange, int kind);
/* At the end of the stage's REDUCE_GRAD. */
void rk_exchange_send_roots(rk_exchange *exchange, int32_t stage);
/* When the piece's total is there, or its new weights. */
void rk_exchange_send_piece(rk_exchange *exchange, int32_t piece);
int rk_exchange_has_roots(const rk_exchange *exchange, int32_t piece);
/* Where the other process's root has come to. */
float *rk_exchange_root(rk_exchange *exchange, int32_t piece, int32_t param, int group);
int rk_exchange_is_done(const rk_exchange *exchange, int kind);

int rk_lane_of(int kind);
void rk_note(rk_rank *rank, const rk_step *step, int lane, int64_t start, int64_t end);
void rk_begin_step(rk_rank *rank, int64_t at);
/* Runs one step of a program; `wait` is 0 under the virtual clock. 0: the run has failed. */
int rk_perform(rk_rank *rank, const rk_step *step, int wait);

void rk_run_rank(void *rank);      /* wall clock: one thread per rank */
void rk_run_virtual(void *engine); /* virtual clock: one thread for all */

#endif
