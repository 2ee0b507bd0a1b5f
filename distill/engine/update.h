/* What is done with weights once their gradients are there, on arrays in a backend's memory. A
 * backend has a table of these; ck_updates_host is that of the processor.
 */
#ifndef CK_UPDATE_H
#define CK_UPDATE_H

#include <stddef.h>
#include <stdint.h>

/* One weight: its value and gradient are borrowed, first and second are its moments. */
typedef struct ck_trained {
    float *value;
    const float *gradient;
    float *first, *second;
    size_t n;
} ck_trained;

/* Numbers of one step of AdamW, see ck_optimizer_step: m and v are the moments of scale g,
 * w <- keep w - step m / (sqrt(v) root + eps). */
typedef struct ck_adamw_step {
    float beta1, beta2, eps, scale, keep, step, root;
} ck_adamw_step;

/* Two arrays of n numbers: one is changed by the other. */
typedef struct ck_pair {
    float *to;
    const float *from;
    size_t n;
} ck_pair;

/* A weight and its copy of bfloat16. */
typedef struct ck_copied {
    uint16_t *copy;
    const float *value;
    size_t n;
    uint32_t stream; /* of chance: no two of a call have the same */
} ck_copied;

/* Rounding by chance: up with the probability that is right on average. The bits of chance are a
 * function of these, of the stream and of an element's place, so that a run that goes on has the
 * same. */
typedef struct ck_rounding {
    uint64_t seed;
    uint32_t step;
} ck_rounding;

/* All weights at once: a card is told in a few calls what to do with thousands. Sums are in an
 * order that depends on the sizes alone. */
typedef struct ck_updates {
    /* Of each gradient the sum of squares, not finite if any of it is not, to sums[count], which
     * are in the backend's memory too: what is not the program's need not be waited for here. */
    void (*squares)(const ck_trained *slices, size_t count, double *sums);
    void (*adamw)(const ck_adamw_step *step, const ck_trained *slices, size_t count);
    /* to += change (from - to) */
    void (*average)(const ck_pair *pairs, size_t count, float change);
    /* to += factor from */
    void (*add)(const ck_pair *pairs, size_t count, float factor);
    /* Copies of bfloat16, of weights that products read so; how NULL: to the nearest. NULL where no
     * backend has such copies. */
    void (*round)(const ck_copied *copies, size_t count, const ck_rounding *how);
} ck_updates;

extern const ck_updates ck_updates_host;

#endif
