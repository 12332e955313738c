/* table.c - this ISA's table: every kernel of kernels.h, as compiled with its flags. */
#include "kernel.h"

#define CK_TEXT_(x) #x
#define CK_TEXT(x) CK_TEXT_(x)
#define CK_ENTRY(name) .name = CK(name),

extern const ck_kernels CK(kernels);
const ck_kernels CK(kernels) = {
    .isa = CK_TEXT(CK_ISA), .lanes = VLEN, CK_KERNEL_LIST(CK_ENTRY)};

/* The list of names and the struct hold the same kernels: no entry can be left NULL. */
#define CK_ONE(name) +1
_Static_assert(sizeof(ck_kernels) == offsetof(ck_kernels, gemm_workspace) +
                                         (0 CK_KERNEL_LIST(CK_ONE)) * sizeof(void (*)(void)),
               "CK_KERNEL_LIST and struct ck_kernels differ");
