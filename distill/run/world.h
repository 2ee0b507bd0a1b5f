/* The processes that share a run: those that `mpirun -n 4 ckdistill ...` starts, or one alone.
 *
 *   ck_world w;
 *   CK_TRY(ck_world_open(&w, err));               w.rank of w.size; alone without mpirun
 *   CK_TRY(ck_world_exchange(&w, mine, counts, 0, most, theirs, err));
 *   ck_world_close(&w);
 *
 * What comes out is in the order of ranks, never in that of arrival: the same bits every time. All
 * processes call the same functions in the same order. One that dies or leaves with an error is
 * seen by mpirun, which ends the others.
 *
 * Open MPI's library is loaded when mpirun's variables are there, so that programs start as fast
 * without it and nothing is needed to build them.
 */
#ifndef CK_WORLD_H
#define CK_WORLD_H

#include "io/error.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct ck_world {
    size_t rank, size;
} ck_world;

/* CK_USAGE: started by mpirun, but the library cannot be loaded. */
ck_status ck_world_open(ck_world *w, ck_error *err);
/* To be left out after an error: the others must not wait. */
void ck_world_close(const ck_world *w);

/* n numbers of each to all[size n], everywhere. */
ck_status ck_world_gather(const ck_world *w, const double *mine, size_t n, double *all,
                          ck_error *err);
/* n bytes of process 0 to everybody. */
ck_status ck_world_send(const ck_world *w, void *bytes, size_t n, ck_error *err);
/* Process 0's status and error, to everybody: what only that one does is everybody's success. */
ck_status ck_world_agree(const ck_world *w, ck_status status, ck_error *err);
/* Whether anybody says so. */
ck_status ck_world_any(const ck_world *w, bool mine, bool *any, ck_error *err);

/* counts: floats that belong to each process, one after the other in arrays of the sum of them. */

/* Of the part that is mine in everybody's array, elements at to at + n - 1, as far as there are
 * such (m of them: ck_peers_piece), to parts[size m] by rank. */
ck_status ck_world_exchange(const ck_world *w, const float *array, const size_t *counts, size_t at,
                            size_t n, float *parts, ck_error *err);
/* Everybody's part of the array, where each has filled in its own, to everybody. */
ck_status ck_world_share(const ck_world *w, float *array, const size_t *counts, ck_error *err);
/* Everybody's part to process 0's array (NULL elsewhere), and back. */
ck_status ck_world_collect(const ck_world *w, const float *part, const size_t *counts, float *array,
                           ck_error *err);
ck_status ck_world_deal(const ck_world *w, float *part, const size_t *counts, const float *array,
                        ck_error *err);

#endif
