/* orders.c - see orders.h. A walk over plain arrays; nothing is allocated. */
#include "orders.h"

#include <string.h>

#define RUN (-2)   /* state: has run */
#define ALONE (-1) /* state: has not run, nobody waits; otherwise the first waiting rank */

/* Whether everything `action` needs has run; if so raises *ready to when it has arrived, else
 * puts the rank to sleep on what is missing. */
static int needs_met(const tl_orders *o, tl_walk *w, int32_t action, int32_t rank,
                     int64_t *ready) {
    for (int32_t e = o->need_start[action]; e < o->need_start[action + 1]; e++) {
        int32_t need = o->need[e], remote = need < 0;
        if (remote) need = ~need;
        if (w->state[need] != RUN) {
            w->next[rank] = w->state[need];
            w->state[need] = rank;
            return 0;
        }
        if (remote && w->arrival[need] > *ready) *ready = w->arrival[need];
    }
    return 1;
}

/* Takes the messages an action received out of their channels: 0 when one is not the next. */
static int take(const tl_orders *o, tl_walk *w, int32_t action) {
    for (int32_t e = o->need_start[action]; e < o->need_start[action + 1]; e++) {
        int32_t need = ~o->need[e];
        if (need >= 0 && w->number[need] != w->taken[o->channel[need]]++) return 0;
    }
    return 1;
}

/* What follows an action on its rank: its message, its stage's gradient, those who wait. */
static int32_t finish(const tl_orders *o, tl_walk *w, int32_t action, int32_t rank,
                      int64_t *now, int64_t *barrier, int32_t awake) {
    int32_t channel = o->channel[action], stage = o->stage[action];
    if (channel >= 0) {
        *now += o->post[action];
        w->arrival[action] = *now + o->flight[action];
        w->number[action] = w->sent[channel]++;
    }
    if (o->gradients && o->gradient[action] && --w->left[stage] == 0) {
        *now += o->reduce[stage];
        if (*now > *barrier) *barrier = *now;
    }
    w->held[rank] += o->delta[action];
    if (w->held[rank] > w->peak[rank]) w->peak[rank] = w->held[rank];
    int32_t waiting = w->state[action];
    w->state[action] = RUN;
    for (; waiting >= 0; waiting = w->next[waiting]) w->awake[awake++] = waiting;
    return awake;
}

static int64_t cost_of(const tl_orders *o, int32_t action, int32_t other) {
    if (other < 0) return o->duration[action];
    if (!o->overlap) return o->duration[action] + o->duration[other];
    int swap = !o->forward[action] && o->forward[other];
    int64_t f = o->stage[swap ? other : action], b = o->stage[swap ? action : other];
    return o->overlap[f * o->num_stages + b];
}

static int own(const tl_orders *o, const tl_walk *w, int32_t action, int32_t rank) {
    return action >= 0 && action < o->num_actions && o->rank[action] == rank &&
           w->state[action] != RUN;
}

static void begin(const tl_orders *o, tl_walk *w) {
    memset(w->state, 0xff, (size_t)o->num_actions * sizeof *w->state);
    memset(w->sent, 0, 2 * (size_t)o->num_stages * sizeof *w->sent);
    memset(w->taken, 0, 2 * (size_t)o->num_stages * sizeof *w->taken);
    if (o->gradients) memcpy(w->left, o->gradients, (size_t)o->num_stages * sizeof *w->left);
    for (int32_t r = 0; r < o->num_ranks; r++) {
        w->at[r] = o->row_start[r];
        w->clock[r] = 0;
        w->held[r] = w->peak[r] = 0;
        w->awake[r] = o->num_ranks - 1 - r;
    }
}

int64_t tl_walk_order(const tl_orders *o, const int32_t *rows, tl_walk *w) {
    begin(o, w);
    int32_t awake = o->num_ranks, done = 0;
    int64_t barrier = 0;
    while (awake) {
        int32_t rank = w->awake[--awake], at = w->at[rank], stop = o->row_start[rank + 1];
        int64_t clock = w->clock[rank];
        while (at < stop) {
            int32_t action = rows[at], other = -1;
            if (at + 1 < stop && rows[at + 1] < 0) other = ~rows[at + 1];
            if (!own(o, w, action, rank) || other == action ||
                (other >= 0 && !own(o, w, other, rank)))
                return TL_MALFORMED;
            int64_t ready = clock;
            if (!needs_met(o, w, action, rank, &ready)) break;
            if (other >= 0 && !needs_met(o, w, other, rank, &ready)) break;
            if (!take(o, w, action) || (other >= 0 && !take(o, w, other))) return TL_UNMATCHED;
            clock = ready + cost_of(o, action, other);
            if (w->start) {
                w->start[action] = ready, w->end[action] = clock;
                if (other >= 0) w->start[other] = ready, w->end[other] = clock;
            }
            awake = finish(o, w, action, rank, &clock, &barrier, awake);
            if (other >= 0) awake = finish(o, w, other, rank, &clock, &barrier, awake);
            at += 1 + (other >= 0);
            done += 1 + (other >= 0);
        }
        w->at[rank] = at;
        w->clock[rank] = clock;
    }
    if (done < o->num_actions) return TL_DEADLOCK;
    int64_t last = 0;
    for (int32_t r = 0; r < o->num_ranks; r++) {
        int64_t end = w->clock[r];
        if (o->gradients && o->optimizer[r] >= 0) {
            if (barrier > end) end = barrier;
            end += o->optimizer[r];
        }
        if (end > last) last = end;
    }
    return last;
}
