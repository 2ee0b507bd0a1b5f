/* The distillation methods: one file each in distill/methods/, one line here and one in
 * distill_methods.c.
 */
#ifndef CK_METHODS_H
#define CK_METHODS_H

#include "distill/methods/distill.h"

extern const ck_distill_method ck_distill_finetune;
extern const ck_distill_method ck_distill_pd;
extern const ck_distill_method ck_distill_cd;
extern const ck_distill_method ck_distill_lcm;
extern const ck_distill_method ck_distill_pcm;
extern const ck_distill_method ck_distill_ecd;
extern const ck_distill_method ck_distill_sfd;
extern const ck_distill_method ck_distill_dmd;
extern const ck_distill_method ck_distill_dmd2;
extern const ck_distill_method ck_distill_scm;
extern const ck_distill_method ck_distill_guidance;
extern const ck_distill_method ck_distill_bk;

#endif
