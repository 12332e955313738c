/* wire.h - the ranks of other processes, reached over MPI.
 *
 * A process runs one rank. A channel whose other end is in another process keeps its rings of
 * buffers, at both ends: the producer's hold what is on its way, the consumer's what has come or
 * may come. The rank works on its rings as if the other end were here; a message moves from ring
 * to ring whenever the rank polls: while it waits, when it sends, and between the kernel calls
 * of a tape. A thread for that was tried: every 500 us it cost a seventh of the throughput where
 * cores are few, while a glance between calls costs next to nothing.
 *
 * MPI is called through pointers that workbench.engine.mpi finds in the library that mpi4py has
 * loaded, so nothing is linked and any MPI will do: its handles, ints in MPICH and pointers in
 * Open MPI, go through the same registers. */
#ifndef RK_WIRE_H
#define RK_WIRE_H

#include <stdint.h>

struct rk_engine;
struct rk_rank;
struct rk_channel;

/* MPI's functions and handles, as words; the order is that of tables.MPI. */
typedef struct rk_mpi {
    uint64_t isend, irecv, iallreduce, test, cancel;
    uint64_t messages, sums; /* communicators: of the channels, of the end of a step */
    uint64_t byte, real64, sum;
} rk_mpi;

/* At the end of a buffer: which message this is. A whole cache line, so that what comes before
 * stays aligned. */
enum { RK_TRAILER = 64 };

typedef struct rk_wire rk_wire;

/* Opens the channels that lead to other processes. NULL: out of memory. */
rk_wire *rk_wire_create(struct rk_engine *engine, const rk_mpi *mpi);
/* Takes back what was still to be received; nothing may be on its way. */
void rk_wire_destroy(rk_wire *wire);

/* 1 when all that was sent has been taken over by MPI's other end. */
int rk_wire_has_sent_all(rk_wire *wire);

/* Moves what can be moved. Like all that follows, by the rank's own thread only. */
void rk_wire_poll(rk_wire *wire);
/* The same, if the last time was a while ago. */
void rk_wire_glance(rk_wire *wire);

/* 1 while a message may be sent without exceeding the channel's capacity. */
int rk_wire_has_room(const struct rk_channel *channel);
void rk_wire_send(rk_wire *wire, struct rk_channel *channel, void *buffer, int32_t unit);
/* The consumer tells the producer that it took a message or, with capacity 0, came for one. */
void rk_wire_credit(rk_wire *wire, struct rk_channel *channel);

/* Single transfers, e.g. of gradients; tags are the caller's own. rk_wire_test: 1 when done. */
void rk_wire_isend(rk_wire *wire, const void *from, int64_t bytes, int peer, int32_t tag,
                   uint64_t *request);
void rk_wire_irecv(rk_wire *wire, void *to, int64_t bytes, int peer, int32_t tag,
                   uint64_t *request);
int rk_wire_test(rk_wire *wire, uint64_t *request);
void rk_wire_cancel(rk_wire *wire, uint64_t *request);

/* The end of a step: every process gives its square sums and losses, and gets everyone's. */
void rk_wire_begin_step(rk_wire *wire);
double *rk_wire_losses(rk_wire *wire); /* of this step's microbatches, where they are made */
void rk_wire_give_sums(rk_wire *wire, const double *square_sums, int stop);
/* 1 when everyone's have come; they are then in the engine's own tables. */
int rk_wire_sums_are_here(rk_wire *wire, double *square_sums, double *losses, int *stop);

#endif
