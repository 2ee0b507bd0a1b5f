/* Learning rates by step.
 *
 *   ck_rate rate = {.shape = CK_RATE_COSINE, .peak = 1e-4, .warmup = 500, .steps = 20000};
 *   double lr = ck_rate_at(&rate, step);
 *
 * A function of the step and nothing else: a resumed run has no state of it to restore.
 */
#ifndef CK_RATE_H
#define CK_RATE_H

#include <stdint.h>

typedef enum ck_rate_shape { CK_RATE_CONSTANT, CK_RATE_LINEAR, CK_RATE_COSINE } ck_rate_shape;
/* Their names in this order, as ck_config_choice takes them. */
#define CK_RATE_SHAPES "constant|linear|cosine"

typedef struct ck_rate {
    ck_rate_shape shape; /* after the warm-up */
    double peak;
    uint64_t warmup; /* steps on which the rate rises evenly; the first has peak / warmup */
    uint64_t steps;  /* of the whole run: where the least rate is reached */
    double least;    /* as a share of the peak, 0 to 1; constant rates have none */
} ck_rate;

/* The rate of a step, counted from 0. torch.optim.lr_scheduler gives the same numbers:
 * SequentialLR of a LinearLR (start_factor 1 / warmup, total_iters warmup - 1) and, from step
 * warmup on, ConstantLR, LinearLR or CosineAnnealingLR over steps - warmup. Beyond steps it stays
 * at the least rate. */
double ck_rate_at(const ck_rate *rate, uint64_t step);

#endif
