/* What a training run must know to go on, apart from weights: moments of the optimiser, averages,
 * counters. Named values, to an HDF5 file and back.
 *
 *   ck_state_array arrays[] = {{"adam.m", m, n}, {"adam.v", v, n}};
 *   ck_state_count counts[] = {{"step", &step}, {"seed", &seed}};
 *   ck_state_number numbers[] = {{"guard.mean", &guard.mean}};
 *   ck_state s = {arrays, 2, counts, 2, numbers, 1};
 *   CK_TRY(ck_state_write("state.h5", &s, err));
 *   CK_TRY(ck_state_read("state.h5", &s, err));             into the same places
 *
 * In the file: dataset /arrays/NAME (f32, little-endian, with Fletcher-32 checksums), attributes
 * NAME of /counts (u64) and of /numbers (f64). Values keep their bits. Without HDF5 in the build
 * both functions are CK_USAGE.
 *
 * The library that reads is not safe against files made to harm (io/hdf5.c is): read only what
 * is known to be what was written, as distill/run/checkpoint.h does.
 */
#ifndef CK_STATE_H
#define CK_STATE_H

#include "io/error.h"

#include <stddef.h>
#include <stdint.h>

/* Names are unique among their kind, and those of arrays have no '/'. */
typedef struct ck_state_array {
    const char *name;
    float *data;
    size_t n; /* elements, may be 0 */
} ck_state_array;

typedef struct ck_state_count {
    const char *name;
    uint64_t *value;
} ck_state_count;

typedef struct ck_state_number {
    const char *name;
    double *value;
} ck_state_number;

typedef struct ck_state {
    const ck_state_array *arrays;
    size_t array_count;
    const ck_state_count *counts;
    size_t count_count;
    const ck_state_number *numbers;
    size_t number_count;
} ck_state;

/* Makes the file, or replaces it, and syncs it to the disk. On failure a part of it may be left. */
ck_status ck_state_write(const char *path, const ck_state *s, ck_error *err);

/* Fills in every value. CK_INPUT: the file is damaged, lacks one of them, has another size for it,
 * or has one more; some values may have been filled in by then. */
ck_status ck_state_read(const char *path, const ck_state *s, ck_error *err);

#endif
