/* The tables by which anatomy.c recognises checkpoints. Names are those of the original layout and
 * without prefix; they are looked up in whatever layout the component has.
 */
#ifndef CK_ANATOMY_INT_H
#define CK_ANATOMY_INT_H

#include "io/anatomy.h"

/* Prefixes under which components are looked for. Ends with NULL. */
extern const char *const ck_prefixes[];

/* A component is there, in this layout, when both tensors (the second may be NULL) are. These names
 * are the ones of the row's layout. */
typedef struct ck_sign {
    ck_part part;
    ck_layout layout;
    bool bare;
    const char *names[2];
} ck_sign;
extern const ck_sign ck_signs[]; /* ends with CK_PART_OTHER */

/* Tensors outside of components, by full name. */
typedef struct ck_group {
    ck_part part;
    const char *pattern;
} ck_group;
extern const ck_group ck_groups[]; /* ends with CK_PART_OTHER */

typedef enum ck_test { CK_TEST_END, CK_HAS, CK_LACKS, CK_RANK, CK_SIZE } ck_test;

/* CK_RANK: value is the rank; CK_SIZE: the size of dimension axis. */
typedef struct ck_clue {
    ck_test test;
    const char *name;
    size_t axis;
    uint64_t value;
} ck_clue;

/* A size of the published model, to say when a model only has its structure. */
typedef struct ck_usual {
    const char *label, *name;
    size_t axis;
    uint64_t value;
} ck_usual;

enum { CK_MAX_CLUES = 4, CK_MAX_USUAL = 3 };

/* The first row whose clues all hold names the architecture. */
typedef struct ck_architecture_row {
    ck_architecture architecture;
    ck_part part; /* the denoiser */
    ck_clue clues[CK_MAX_CLUES];
    ck_usual usual[CK_MAX_USUAL];
    size_t needed_original, needed_diffusers; /* tensors of the denoiser */
    ck_mark mark; /* that all models of this architecture have, or NULL texts */
} ck_architecture_row;
extern const ck_architecture_row ck_architectures[]; /* ends with the unknown one */

/* Tensors that a complete component other than the denoiser has at least. */
typedef struct ck_needed {
    ck_part part;
    size_t original, diffusers;
} ck_needed;
extern const ck_needed ck_needed_tensors[]; /* ends with CK_PART_OTHER */

/* Variants, by the number of input channels. */
typedef struct ck_variant {
    ck_part part;
    const char *name;
    size_t axis;
    uint64_t value;
    const char *variant;
} ck_variant;
extern const ck_variant ck_variants[]; /* ends with CK_PART_OTHER */

/* Text encoders by their width. */
typedef struct ck_width {
    uint64_t width;
    ck_part part;
} ck_width;
extern const ck_width ck_clip_widths[]; /* ends with 0 */

typedef enum ck_evidence {
    CK_EVIDENCE_END,
    CK_EVIDENCE_METADATA, /* key is there and its value contains text (NULL: whatever it is),
                           * letter case apart */
    CK_EVIDENCE_TENSOR,   /* a tensor whose full name matches the pattern */
    CK_EVIDENCE_DENOISER, /* the denoiser has the tensor key */
    CK_EVIDENCE_SUFFIX,   /* a tensor whose name ends so */
} ck_evidence;

typedef struct ck_mark_row {
    ck_evidence evidence;
    const char *key, *text;
    ck_mark mark;
} ck_mark_row;
extern const ck_mark_row ck_mark_rows[]; /* ends with CK_EVIDENCE_END */

/* What the model predicts; the first row that holds. */
typedef struct ck_prediction_row {
    ck_evidence evidence;
    const char *key, *text;
    ck_predicted prediction;
    const char *reason;
} ck_prediction_row;
extern const ck_prediction_row ck_prediction_rows[]; /* ends with CK_EVIDENCE_END */

#endif
