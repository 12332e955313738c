/* team.c - the small team of threads of one rank. All members walk the same tape; each computes
 * its part of every call, and none goes on to the next call before all have finished this one. */
#include "runtime.h"

#include <stdlib.h>

struct rk_team_seat {
    rk_team *team;
    int part;
};

/* Turns of spinning, then of yielding, before a member without work goes to sleep. */
enum { SPINS = 4000, PATIENCE = SPINS + 50 };

static void pause_briefly(const rk_team *team, int *turns) {
    if (team->engine->config.spin && *turns < SPINS)
        os_spin();
    else
        os_yield();
    ++*turns;
}

/* The last to arrive opens the next phase. */
static void meet(rk_team *team) {
    uint32_t phase = atomic_load(&team->phase);
    if (atomic_fetch_add(&team->arrived, 1) + 1 == team->size) {
        atomic_store(&team->arrived, 0);
        atomic_store(&team->phase, phase + 1);
        return;
    }
    int turns = 0;
    while (atomic_load(&team->phase) == phase) pause_briefly(team, &turns);
}

/* The leader keeps messages between processes moving. */
static void glance(const rk_team *team) {
    if (team->engine->wire) rk_wire_glance(team->engine->wire);
}

static void walk(rk_team *team, int part) {
    /* Copies: once the last call is met, the leader may already be setting up the next tape. */
    const rk_call *calls = team->calls;
    const rk_place *place = team->place;
    int32_t count = team->count;
    for (int32_t i = 0; i < count; i++) {
        rk_run_call(team->engine->kernels, &calls[i], place, part, team->size);
        if (part == 0) glance(team);
        meet(team);
    }
}

static void member_main(void *raw) {
    struct rk_team_seat *seat = raw;
    rk_team *team = seat->team;
    uint32_t seen = 0;
    for (;;) {
        int turns = 0;
        while (atomic_load(&team->epoch) == seen) {
            if (atomic_load(&team->quit)) return;
            if (turns < PATIENCE)
                pause_briefly(team, &turns);
            else /* between steps or while the rank waits: let the core go */
                os_wait(&team->epoch, seen, 1000000);
        }
        seen++;
        walk(team, seat->part);
    }
}

void rk_run_tape(rk_team *team, const rk_call *calls, int32_t count, const rk_place *place) {
    if (team->size == 1) {
        for (int32_t i = 0; i < count; i++) {
            rk_run_call(team->engine->kernels, &calls[i], place, 0, 1);
            glance(team);
        }
        return;
    }
    if (count == 0) return;
    team->calls = calls;
    team->count = count;
    team->place = place;
    atomic_fetch_add(&team->epoch, 1);
    os_wake(&team->epoch);
    walk(team, 0);
}

int rk_team_create(rk_team *team, rk_engine *engine, int size) {
    team->size = 1;
    team->engine = engine;
    atomic_init(&team->epoch, 0);
    atomic_init(&team->arrived, 0);
    atomic_init(&team->phase, 0);
    atomic_init(&team->quit, 0);
    if (size == 1) return 1;
    team->threads = calloc((size_t)size, sizeof *team->threads);
    team->seats = calloc((size_t)size, sizeof *team->seats);
    if (!team->threads || !team->seats) return 0;
    for (int part = 1; part < size; part++) {
        team->seats[part] = (struct rk_team_seat){team, part};
        team->threads[part] = os_start(member_main, &team->seats[part]);
        if (!team->threads[part]) return 0;
        team->size = part + 1;
    }
    return 1;
}

void rk_team_destroy(rk_team *team) {
    atomic_store(&team->quit, 1);
    if (team->threads) {
        os_wake(&team->epoch);
        for (int part = 1; part < team->size; part++) os_join(team->threads[part]);
    }
    free(team->threads);
    free(team->seats);
    team->threads = NULL;
    team->seats = NULL;
}
