/* A smaller UNet from a larger one by leaving blocks out (Kim et al., 2023: BK-SDM), for a student
 * that is faster in every step.
 *
 *   ck_unet_config smaller = *teacher.unet;
 *   CK_TRY(ck_shrink(teacher.params, &smaller, 1, false, &student, err));
 *
 * With layers 1 of 2 it is BK-SDM's "base", without the middle block as well its "small".
 */
#ifndef CK_SHRINK_H
#define CK_SHRINK_H

#include "distill/models/unet.h"

/* Weights of a UNet with so many layers a level (1 to what it has), and perhaps without its middle
 * block. On the way down the first layers stay, on the way up these and the last, which takes what
 * the level above hands on. *c: the teacher's, then the student's. CK_USAGE: more layers than there
 * are, levels of different numbers of them, layers of different kinds. */
ck_status ck_shrink(const ck_params *teacher, ck_unet_config *c, int64_t layers, bool middle,
                    ck_params **student, ck_error *err);

#endif
