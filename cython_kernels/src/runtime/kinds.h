/* kinds.h - the integers of workbench.schedule.Kind, in the order of the enum there. */
#ifndef RK_KINDS_H
#define RK_KINDS_H

enum rk_kind {
    RK_F, RK_I, RK_W, RK_B, RK_R,
    RK_SEND_F, RK_RECV_F, RK_SEND_B, RK_RECV_B,
    RK_REDUCE_GRAD, RK_OPT_STEP, RK_UNSHARD, RK_RESHARD, RK_OFFLOAD, RK_RELOAD,
    RK_NUM_KINDS
};

#endif
