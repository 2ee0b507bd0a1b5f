/* What the pickles of checkpoints import by name: what a name means to a reader, and whether
 * importing and calling it could do harm.
 *
 *   const ck_global *g = ck_global_find("torch.HalfStorage");      g->meaning, g->dtype
 *   ck_verdict v = ck_global_verdict("os", "system");              CK_DANGEROUS
 */
#ifndef CK_GLOBALS_H
#define CK_GLOBALS_H

#include "kernels/dtype.h"

typedef enum ck_global_meaning {
    CK_GLOBAL_INERT,      /* of no meaning for weights, and harmless to meet */
    CK_GLOBAL_DICT,       /* called, it makes something that maps keys to values */
    CK_GLOBAL_SIZE,       /* called, it makes its argument a shape */
    CK_GLOBAL_STORAGE,    /* a type of storage; dtype, bytes */
    CK_GLOBAL_DTYPE,      /* an element type; dtype, bytes */
    CK_GLOBAL_TENSOR,     /* called with storage, offset, size, stride, ... it makes a tensor */
    CK_GLOBAL_TENSOR_V3,  /* the same, with the element type as seventh argument */
    CK_GLOBAL_PARAMETER,  /* called, it makes its first argument, a tensor, a parameter */
    CK_GLOBAL_FROM_TYPE,  /* called, it calls its first argument with its third */
    CK_GLOBAL_UNREADABLE, /* called, it makes a tensor of a kind that cannot be read here */
} ck_global_meaning;

typedef struct ck_global {
    const char *name; /* "module.name"; with a dot at the end: everything that begins so */
    ck_global_meaning meaning;
    ck_dtype dtype; /* CK_DTYPE_COUNT: there is no equal, and tensors of it are refused */
    unsigned bytes; /* of an element */
} ck_global;

/* By "module.name"; NULL for what no checkpoint needs. */
const ck_global *ck_global_find(const char *name);

typedef enum ck_verdict {
    CK_HARMLESS,  /* known, and cannot do anything but make a value */
    CK_UNKNOWN,   /* code that whoever loads the file would have to trust */
    CK_DANGEROUS, /* can run commands or code, or is of no use but to that end */
} ck_verdict;

/* "harmless", "unknown", "dangerous". */
const char *ck_verdict_name(ck_verdict v);

/* What to think of a pickle that imports this. The rule is an allow-list: of Python's standard
 * library and of PyTorch everything is dangerous that is not known to be harmless, or plainly a
 * layer or optimiser; of other packages everything is unknown that is not known to be dangerous. */
ck_verdict ck_global_verdict(const char *module, const char *name);

#endif
