/* dispatch.c - which table this machine runs. Compiled with the baseline's flags only: nothing
 * here may need an instruction that the machine has not been asked about. */
#include "kernels.h"

#include <string.h>

#ifdef CK_HAVE_AVX512
extern const ck_kernels ck_kernels_avx512;
#endif
#ifdef CK_HAVE_AVX2
extern const ck_kernels ck_kernels_avx2;
#endif
#ifdef CK_HAVE_NEON
extern const ck_kernels ck_kernels_neon;
#endif
#ifdef CK_HAVE_WIDE
extern const ck_kernels ck_kernels_wide;
#endif
extern const ck_kernels ck_kernels_generic;

const ck_kernels *const ck_tables[] = {
#ifdef CK_HAVE_AVX512
    &ck_kernels_avx512,
#endif
#ifdef CK_HAVE_AVX2
    &ck_kernels_avx2,
#endif
#ifdef CK_HAVE_NEON
    &ck_kernels_neon,
#endif
    &ck_kernels_generic,
#ifdef CK_HAVE_WIDE
    &ck_kernels_wide, /* 16 lanes on narrower registers: for tests, never the best */
#endif
    NULL,
};

#define CK_NAME(name) #name,
const char *const ck_kernel_names[] = {CK_KERNEL_LIST(CK_NAME) NULL};

int ck_runs_here(const ck_kernels *table) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_cpu_init();
    int v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    if (!strcmp(table->isa, "avx512"))
        return v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
    if (!strcmp(table->isa, "avx2") || !strcmp(table->isa, "wide")) return v3;
#endif
    (void)table;
    return 1;
}

const ck_kernels *ck_find(const char *isa) {
    for (const ck_kernels *const *table = ck_tables; *table; table++) {
        int wanted = !isa || !*isa || !strcmp((*table)->isa, isa);
        if (wanted && ck_runs_here(*table)) return *table;
    }
    return NULL;
}
