/* orders.c - see orders.h. A walk over plain arrays; nothing is allocated. */
#include "orders.h"

#include <string.h>

#define RUN (-2)   /* waiting: the action has run */
#define ALONE (-1) /* waiting: it has not, and nobody waits for it */

/* Puts a rank to sleep on an action. */
static int sleep_on(tl_walk *w, int32_t action, int32_t rank) {
    w->next[rank] = w->states[action].waiting;
    w->states[action].waiting = rank;
    return 0;
}

/* Whether all that an action needs has run; if so raises *ready to when its message is there,
 * else the rank sleeps on what is missing. */
static inline int needs_met(const tl_orders *o, tl_walk *w, const tl_action *a, int32_t rank,
                            int64_t *ready) {
    if (a->remote >= 0) {
        const tl_state *sent = &w->states[a->remote];
        if (sent->waiting != RUN) return sleep_on(w, a->remote, rank);
        if (sent->arrival > *ready) *ready = sent->arrival;
    }
    for (int32_t e = a->need; e < a->needs; e++)
        if (w->states[o->need[e]].waiting != RUN) return sleep_on(w, o->need[e], rank);
    return 1;
}

/* Takes the message an action received out of its channel: 0 when it is not the next. */
static inline int take(const tl_orders *o, tl_walk *w, const tl_action *a) {
    if (a->remote < 0) return 1;
    return w->states[a->remote].number == w->taken[o->actions[a->remote].channel]++;
}

/* What follows an action on its rank: its message, its stage's gradient, those who wait. */
static inline int32_t finish(const tl_orders *o, tl_walk *w, int32_t action, int32_t rank,
                             int64_t *now, int64_t *barrier, int32_t awake) {
    const tl_action *a = &o->actions[action];
    tl_state *state = &w->states[action];
    if (a->channel >= 0) {
        *now += a->post;
        state->arrival = *now + a->flight;
        state->number = w->sent[a->channel]++;
    }
    if (o->gradients && a->gradient && --w->left[a->stage] == 0) {
        *now += o->reduce[a->stage];
        if (*now > *barrier) *barrier = *now;
    }
    w->held[rank] += a->delta;
    if (w->held[rank] > w->peak[rank]) w->peak[rank] = w->held[rank];
    int32_t waiting = state->waiting;
    state->waiting = RUN;
    for (; waiting >= 0; waiting = w->next[waiting]) w->awake[awake++] = waiting;
    return awake;
}

static int64_t together(const tl_orders *o, const tl_action *a, const tl_action *b) {
    if (!o->overlap) return a->duration + b->duration;
    int swap = !a->forward && b->forward;
    int64_t f = swap ? b->stage : a->stage, g = swap ? a->stage : b->stage;
    return o->overlap[f * o->num_stages + g];
}

static inline int own(const tl_orders *o, const tl_walk *w, int32_t action, int32_t rank) {
    return action >= o->row_start[rank] && action < o->row_start[rank + 1] &&
           w->states[action].waiting != RUN;
}

/* Runs the step at rows[at]: how many entries it took, 0: it sleeps, or a negative result. */
static inline int32_t step(const tl_orders *o, tl_walk *w, const int32_t *rows, int32_t rank,
                           int32_t at, int64_t *clock, int64_t *barrier, int32_t *awake) {
    int32_t action = rows[at], other = -1;
    if (at + 1 < o->row_start[rank + 1] && rows[at + 1] < 0) other = ~rows[at + 1];
    if (!own(o, w, action, rank)) return TL_MALFORMED;
    if (other >= 0 && (other == action || !own(o, w, other, rank))) return TL_MALFORMED;
    const tl_action *a = &o->actions[action], *b = other >= 0 ? &o->actions[other] : NULL;
    int64_t ready = *clock;
    if (!needs_met(o, w, a, rank, &ready) || (b && !needs_met(o, w, b, rank, &ready))) return 0;
    if (!take(o, w, a) || (b && !take(o, w, b))) return TL_UNMATCHED;
    *clock = ready + (b ? together(o, a, b) : a->duration);
    if (w->start) {
        w->start[action] = ready, w->end[action] = *clock;
        if (b) w->start[other] = ready, w->end[other] = *clock;
    }
    *awake = finish(o, w, action, rank, clock, barrier, *awake);
    if (b) *awake = finish(o, w, other, rank, clock, barrier, *awake);
    return b ? 2 : 1;
}

static void begin(const tl_orders *o, tl_walk *w) {
    for (int32_t i = 0; i < o->num_actions; i++) w->states[i].waiting = ALONE;
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

static int64_t last_end(const tl_orders *o, const tl_walk *w, int64_t barrier) {
    int64_t last = 0;
    for (int32_t r = 0; r < o->num_ranks; r++) {
        int64_t end = w->clock[r];
        if (o->gradients && o->optimizer[r] >= 0)
            end = (barrier > end ? barrier : end) + o->optimizer[r];
        if (end > last) last = end;
    }
    return last;
}

int64_t tl_walk_order(const tl_orders *o, const int32_t *rows, tl_walk *w) {
    begin(o, w);
    int32_t awake = o->num_ranks, done = 0;
    int64_t barrier = 0;
    while (awake) {
        int32_t rank = w->awake[--awake], at = w->at[rank];
        int64_t clock = w->clock[rank];
        while (at < o->row_start[rank + 1]) {
            int32_t taken = step(o, w, rows, rank, at, &clock, &barrier, &awake);
            if (taken < 0) return taken;
            if (taken == 0) break;
            at += taken;
            done += taken;
        }
        w->at[rank] = at;
        w->clock[rank] = clock;
    }
    return done < o->num_actions ? TL_DEADLOCK : last_end(o, w, barrier);
}
