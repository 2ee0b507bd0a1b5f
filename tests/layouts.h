/* The tensors of every published model in its original layout, generated from its rules, for tests:
 * names and shapes in full size, or the same names with tiny shapes, and readers over them whose
 * data are made up as they are read.
 *
 *   layout l;
 *   layout_make(&l, layout_case_named("sdxl"), true);
 *   ck_reader *r = layout_reader(&l);
 *   ...
 *   ck_reader_close(r);
 *   layout_free(&l);
 */
#ifndef CK_TESTS_LAYOUTS_H
#define CK_TESTS_LAYOUTS_H

#include "io/reader.h"

#include <stdbool.h>

typedef struct layout_tensor {
    char name[160];
    ck_dtype dtype;
    size_t rank;
    uint64_t shape[4];
} layout_tensor;

typedef struct layout {
    layout_tensor *tensors;
    size_t count, capacity;
    const char *prefix; /* of what is added next */
} layout;

/* A model, or a component of one. */
typedef struct layout_case {
    const char *name;
    void (*make)(layout *l, bool tiny);
    size_t tensors; /* of the full size */
    uint64_t elements;
    const char *fingerprint; /* layout_fingerprint */
    /* The same of its diffusers form, of CK_UNUSED_DROP; NULL: not known. */
    size_t diffusers_tensors;
    const char *diffusers_fingerprint;
} layout_case;

extern const layout_case layout_cases[];
extern const size_t layout_case_count;
const layout_case *layout_case_named(const char *name);

void layout_make(layout *l, const layout_case *c, bool tiny);
void layout_free(layout *l);

/* Adds a tensor by hand. */
void layout_add(layout *l, const char *name, ck_dtype dtype, size_t rank, const uint64_t *shape);

/* A reader of these tensors; all floats are F16. Every byte depends on the tensor's name and the
 * place in it; logit_scale is ln 100. The layout may be released before the reader. */
ck_reader *layout_reader(const layout *l);

/* The first 16 hex digits of the SHA-256 of the lines "name\tdim,dim\n" sorted by name. */
void layout_fingerprint(const ck_reader *r, char hex[17]);

#endif
