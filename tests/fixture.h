/* Files for tests: a temporary folder and safetensors written by the plainest code there can be.
 *
 *   fixture f;
 *   fixture_make(&f);
 *   char *a = fixture_safetensors(&f, "a.safetensors", "{\"__metadata__\":{}}", ...)
 *   fixture_remove(&f);
 */
#ifndef CK_TESTS_FIXTURE_H
#define CK_TESTS_FIXTURE_H

#include "io/reader.h"

typedef struct fixture {
    char folder[64];
} fixture;

void fixture_make(fixture *f);
void fixture_remove(fixture *f); /* with everything in it */

/* "folder/name"; the buffer is one of a few that are used in turn. */
const char *fixture_path(const fixture *f, const char *name);

/* How many entries the folder has, hidden ones included. */
int fixture_entries(const fixture *f);

/* Writes bytes to folder/name; returns its path as fixture_path does. */
const char *fixture_file(const fixture *f, const char *name, const void *data, size_t n);

/* Reads a whole file; the caller frees. Fails the test when it cannot. */
unsigned char *fixture_read(const char *path, size_t *n);

/* A safetensors file of this header text (the length in front is added) and data. */
const char *fixture_raw_safetensors(const fixture *f, const char *name, const char *header,
                                    const void *data, size_t n);

typedef struct fixture_tensor {
    const char *name;
    ck_dtype dtype;
    uint64_t shape[5];
    size_t rank;
    const void *data; /* of the size that dtype and shape say */
} fixture_tensor;

/* A safetensors file of these tensors, in their order; metadata is a JSON object or NULL. */
const char *fixture_safetensors(const fixture *f, const char *name, const fixture_tensor *tensors,
                                size_t count, const char *metadata);

/* A stream of pseudo-random numbers (xorshift64*), the same in every run. */
uint64_t fixture_random(uint64_t *state);
/* In [-1, 1). */
float fixture_random_float(uint64_t *state);

#endif
