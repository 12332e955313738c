/* orders.h - the makespan of many orders of one set of actions.
 *
 * Search asks for one number thousands of times a second: how long does a step take when every
 * rank runs its actions in this order? What does not depend on the order (who needs what, what
 * it costs, how long a message flies) is laid out once, by action; an order is then walked once,
 * without building a graph. Every rank runs until an action needs one that has not run, and is
 * woken by it. Channels have no limit here.
 */
#ifndef TL_ORDERS_H
#define TL_ORDERS_H

#include <stdint.h>

/* What a walk returns in place of a makespan. */
#define TL_DEADLOCK (-1)  /* ranks wait for each other, or an action stands before its own need */
#define TL_UNMATCHED (-2) /* a channel's messages are taken in another order than they are sent */
#define TL_MALFORMED (-3) /* a row is not an order of its rank's actions */

/* An action that runs together with the one before it in its row is written as ~action. */
typedef struct tl_orders {
    int32_t num_ranks, num_actions, num_stages;
    const int32_t *row_start;  /* num_ranks + 1: where a rank's row begins in an order */
    const int32_t *rank;       /* of an action, as all below unless it says otherwise */
    const int32_t *stage;
    const int32_t *channel;    /* the channel of its message, -1 without one; below 2*num_stages */
    const int32_t *need_start; /* CSR row starts, num_actions + 1 */
    const int32_t *need;       /* what it needs: an action of the same rank, or ~action of another */
    const int64_t *duration;
    const int64_t *post;       /* how long sending its message keeps the rank */
    const int64_t *flight;     /* how long the message is under way after that */
    const double *delta;       /* what it takes (before) or gives back (after) of its rank's memory */
    const int64_t *overlap;    /* by stage of the forward x stage of the backward; NULL: their sum */
    const uint8_t *forward;    /* 1: a forward, 0: not */
    const int32_t *gradients;  /* by stage: how many actions end its gradient; NULL: no optimizer */
    const uint8_t *gradient;   /* 1: ends a part of its stage's gradient */
    const int64_t *reduce;     /* by stage: reducing the gradient, after its last part */
    const int64_t *optimizer;  /* by rank: all optimizer steps */
} tl_orders;

/* Room a walk writes to. start and end may be NULL. */
typedef struct tl_walk {
    int64_t *arrival;  /* num_actions: when its message is there */
    int32_t *number;   /* num_actions: which message of its channel it was */
    int32_t *state;    /* num_actions: run, or the first rank that waits for it */
    int32_t *sent;     /* 2 * num_stages: messages a channel was given */
    int32_t *taken;    /* 2 * num_stages */
    int32_t *left;     /* num_stages: parts of the gradient that are missing */
    int32_t *at;       /* num_ranks: where its row stands */
    int32_t *next;     /* num_ranks: the next rank that waits for the same action */
    int32_t *awake;    /* num_ranks: a stack */
    int64_t *clock;    /* num_ranks: when the rank is free */
    double *held;      /* num_ranks */
    double *peak;      /* num_ranks: the most memory it held */
    int64_t *start;    /* num_actions: when it began to run */
    int64_t *end;      /* num_actions */
} tl_walk;

/* The makespan, or one of the negative values above. rows: num_actions entries. */
int64_t tl_walk_order(const tl_orders *o, const int32_t *rows, tl_walk *w);

#endif
