/* The table of distillation methods. */
#include "distill/methods/methods.h"

#include <string.h>

static const ck_distill_method *const methods[] = {
    &ck_distill_finetune, &ck_distill_pd,  &ck_distill_cd,       &ck_distill_lcm,
    &ck_distill_pcm,      &ck_distill_ecd, &ck_distill_sfd,      &ck_distill_dmd,
    &ck_distill_dmd2,     &ck_distill_scm, &ck_distill_guidance, &ck_distill_bk,
};

const ck_distill_method *ck_distill_method_at(size_t i) {
    return i < sizeof methods / sizeof *methods ? methods[i] : NULL;
}

const ck_distill_method *ck_distill_method_find(const char *name) {
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (strcmp(methods[i]->name, name) == 0) return methods[i];
    return NULL;
}
