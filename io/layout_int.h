/* Names of tensors in the two layouts, as tables of pattern pairs, and the matching of names.
 *
 * In a pattern '#' stands for a number and a '*' at the end for any rest (at least one character).
 * The numbers are the same on both sides, in order, unless the row has a numbering rule.
 * Rows are tried in order and the first that matches the name counts. So a row for names that only
 * some files use comes after the one for the same tensor that is to be written.
 */
#ifndef CK_LAYOUT_INT_H
#define CK_LAYOUT_INT_H

#include "io/anatomy.h"

/* How the numbers of the two sides belong together. n: the "blocks" of the model, see ck_naming. */
typedef enum ck_numbering {
    CK_NUMBERS_SAME,
    CK_NUMBERS_INPUT,   /* i <-> a, b with i = a n + b + 1, b < n - 1: a level's residual blocks */
    CK_NUMBERS_DOWN,    /* i <-> a with i = a n + n: the downsampler that ends level a */
    CK_NUMBERS_OUTPUT,  /* i <-> a, b with i = a n + b, b < n */
    CK_NUMBERS_UP,      /* i <-> a with i = a n + n - 1: with the last block of level a */
    CK_NUMBERS_REVERSE, /* first number l <-> n - 1 - l, others the same */
    CK_NUMBERS_LAST,    /* same, but only for the last block, n - 1 */
} ck_numbering;

/* What happens to the data on the way from original to diffusers; backwards the inverse. */
typedef enum ck_change {
    CK_CHANGE_NONE,
    CK_CHANGE_SPLIT,     /* rows are cut into as many parts as the row has diffusers names */
    CK_CHANGE_MATRIX,    /* a 1x1 convolution [o,i,1,1] becomes a matrix [o,i] */
    CK_CHANGE_SWAP,      /* upper and lower half of the rows change places */
    CK_CHANGE_TRANSPOSE, /* [a,b] becomes [b,a] */
} ck_change;

enum { CK_MAX_PARTS = 4, CK_MAX_NUMBERS = 3, CK_MAX_NAME = 512 };

typedef struct ck_name_row {
    const char *original;
    const char *diffusers[CK_MAX_PARTS];
    ck_numbering numbering;
    ck_change change;
    unsigned char shares[CK_MAX_PARTS]; /* CK_CHANGE_SPLIT: heights of the parts, in proportion; all
                                         * 0: equal */
    /* The row counts only if the model has this tensor: looked at when the model is in that
     * layout. NULL: always. */
    const char *if_original, *if_diffusers;
} ck_name_row;

typedef struct ck_naming {
    const ck_name_row *rows; /* ends with a zeroed row */
    /* Patterns of tensors that the programs of the other layout do not load. End with NULL. */
    const char *const *unused_original, *const *unused_diffusers;
    /* "blocks" of a model: how many tensors match, divided by one more than those that match
     * divisor_original (NULL: by one). NULL: no row needs it. */
    const char *count_original, *count_diffusers, *divisor_original;
} ck_naming;

/* The naming of a part; NULL for parts that are not models. */
const ck_naming *ck_naming_of(ck_part part);

/* A component of a file, for looking up names in it. */
typedef struct ck_names {
    const ck_reader *reader;
    const ck_component *component;
    const ck_naming *naming;
    size_t blocks;
} ck_names;

void ck_names_init(ck_names *n, const ck_reader *reader, const ck_component *component);

/* A name taken apart. */
typedef struct ck_name {
    const ck_name_row *row;
    size_t part;                        /* which of the row's diffusers names (0 for original) */
    unsigned original[CK_MAX_NUMBERS];  /* numbers in the original name */
    unsigned diffusers[CK_MAX_NUMBERS]; /* and in the diffusers name */
    const char *rest;                   /* what '*' stands for; within the name given */
} ck_name;

/* Takes a tensor's full name apart by the rows of the component's layout. False when the name
 * does not begin with the component's prefix or no row matches. */
bool ck_names_parse(const ck_names *n, const char *name, ck_name *parsed);

/* Writes prefix and the name in the given layout (part: which diffusers name; bare: without
 * "text_model."). False when it does not fit. */
bool ck_names_render(const ck_name *parsed, ck_layout layout, size_t part, const char *prefix,
                     bool bare, char out[CK_MAX_NAME]);

/* The component's tensor that has this name in the original layout, whatever layout it is in (of
 * split tensors the first part). NULL if there is none. */
const ck_tensor *ck_names_find(const ck_names *n, const char *original);

/* Whether the whole name matches the pattern. */
bool ck_pattern_match(const char *pattern, const char *name);

/* Where components of an architecture stand in files that hold several. */
typedef struct ck_seat {
    ck_architecture_id architecture;
    ck_part part;
    const char *original, *diffusers; /* prefixes */
    bool same_names; /* after the prefix, names are the diffusers ones in both layouts */
} ck_seat;

extern const ck_seat ck_seats[]; /* ends with an unknown architecture */

#endif
