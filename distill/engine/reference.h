/* The plain kernels, one function per operation: what every other backend is measured against.
 *
 *   ck_reference_f32[CK_OP_CONV](&call);
 *
 * There is one for every operation that computes; CK_OP_INPUT, CK_OP_PARAM and CK_OP_VIEW have
 * NULL. None needs scratch memory. Results are shared out among threads, sums never are, so the
 * bits do not depend on the number of threads.
 */
#ifndef CK_REFERENCE_H
#define CK_REFERENCE_H

#include "distill/engine/backend.h"

typedef void ck_run(const ck_call *call);

/* Arrays of float, and of double (ids are int32_t in both). */
extern ck_run *const ck_reference_f32[CK_OP_COUNT];
extern ck_run *const ck_reference_f64[CK_OP_COUNT];

#endif
