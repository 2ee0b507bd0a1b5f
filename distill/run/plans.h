/* RUN/plans.json: what a backend's libraries have chosen for the run's kinds of work, so that a run
 * that goes on is computed in the same way, to the same bits.
 *
 *   {"by": "cuBLASLt 130100, cuDNN 91900, NVIDIA H100 80GB HBM3", "choices": {"KIND": "CHOICE"}}
 *
 *   ck_plans p = {.backend = backend};
 *   CK_TRY(ck_plans_take(&p, "RUN/plans.json", &change, err));         before graphs are planned
 *   CK_TRY(ck_plans_keep(&p, "RUN/plans.json", err));                  after every step
 *
 * Backends that always compute in one way have no such file.
 */
#ifndef CK_PLANS_H
#define CK_PLANS_H

#include "distill/engine/backend.h"

typedef struct ck_plans {
    const ck_backend *backend;
    size_t kept; /* choices that are in the file */
} ck_plans;

/* *change: why the choices of the file, if there is one, are not taken, so that bits may differ
 * from here on: another card, another version, no file; "" where they are. CK_INPUT: the file is
 * damaged. */
ck_status ck_plans_take(ck_plans *p, const char *path, char change[512], ck_error *err);
/* Writes the file anew if there are more choices than it has; whole or not at all. */
ck_status ck_plans_keep(ck_plans *p, const char *path, ck_error *err);
/* Writes it, whatever was there. */
ck_status ck_plans_begin(ck_plans *p, const char *path, ck_error *err);

#endif
