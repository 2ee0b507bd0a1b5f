/* What the files of lora.h share: names of layers and of what they consist of.
 */
#ifndef CK_LORA_INT_H
#define CK_LORA_INT_H

#include "io/arena.h"
#include "kernels/kernels.h"
#include "merge/lora.h"

/* What a tensor of a LoRA file is to its layer. */
typedef enum ck_lora_role {
    CK_ROLE_ALPHA,
    CK_ROLE_SCALAR, /* a factor of the whole */
    CK_ROLE_UP,
    CK_ROLE_DOWN,
    CK_ROLE_MID,
    CK_ROLE_HADA_W1_A,
    CK_ROLE_HADA_W1_B,
    CK_ROLE_HADA_T1,
    CK_ROLE_HADA_W2_A,
    CK_ROLE_HADA_W2_B,
    CK_ROLE_HADA_T2,
    CK_ROLE_LOKR_W1,
    CK_ROLE_LOKR_W1_A,
    CK_ROLE_LOKR_W1_B,
    CK_ROLE_LOKR_W2,
    CK_ROLE_LOKR_W2_A,
    CK_ROLE_LOKR_W2_B,
    CK_ROLE_LOKR_T2,
    CK_ROLE_DIFF,
    CK_ROLE_DIFF_BIAS,
    CK_ROLE_UP_BIAS,    /* PEFT: of the up matrix */
    CK_ROLE_DORA_SCALE, /* magnitudes as LyCORIS and kohya's tools shape them */
    CK_ROLE_MAGNITUDE,  /* as PEFT does: one for each output */
    CK_ROLE_FOREIGN,    /* of a kind that is not read */
    CK_ROLE_COUNT,      /* none: not a LoRA's tensor */
} ck_lora_role;

/* sum over p < rank of left[row, p] right[p, column]. */
typedef struct ck_lora_product {
    const ck_tensor *left; /* [rows, rank], or transposed [rank, rows]; NULL: there is no product */
    const ck_tensor *core; /* [rank, inner, kernel]; NULL: none */
    const ck_tensor *right; /* [rank, columns], or with a core [inner, columns / kernel] */
    bool transposed;
    uint64_t rows, columns, rank;
} ck_lora_product;

/* A layer and what it consists of. */
typedef struct ck_lora_parts {
    ck_lora_layer shown;
    const ck_tensor *roles[CK_ROLE_COUNT];
    ck_lora_product products[2];  /* LoHa: both; LoKr: those of w1 and w2 that are products */
    const ck_tensor *matrices[2]; /* LoKr: w1 and w2 where they are none; full: the difference */
} ck_lora_parts;

/* Layers in memory. */
typedef struct ck_lora_cache ck_lora_cache;
ck_lora_cache *ck_lora__cache_new(void); /* NULL when out of memory */
void ck_lora__cache_free(ck_lora_cache *cache);

struct ck_lora {
    const ck_reader *file;
    const ck_kernels *kernels;
    ck_lora_parts *layers;
    size_t count, capacity;
    const char **strangers;
    size_t stranger_count;
    ck_arena arena;
    ck_lora_cache *cache;
};

enum { CK_LORA_MAX_NAME = 512 };

/* Takes a tensor's name apart: the layer's name, in today's spelling, and the tensor's role. */
ck_lora_role ck_lora__parse(const char *tensor, char layer[CK_LORA_MAX_NAME]);

/* Rows [tensor_row, tensor_row + rows) of a model's tensor are the rows from name_row on of the
 * weight (or bias) that LoRAs call by this name, '.' being written '_'. */
typedef struct ck_lora_place {
    const char *name;
    const ck_tensor *tensor;
    uint64_t name_row, tensor_row, rows;
} ck_lora_place;

/* All places of a model, by name and row. */
typedef struct ck_lora_places {
    ck_lora_place *items;
    size_t count, capacity;
    ck_arena arena;
} ck_lora_places;

/* On failure nothing is to be released. */
ck_status ck_lora__places(const ck_reader *model, ck_lora_places *places, ck_error *err);
void ck_lora__places_free(ck_lora_places *places);

/* Of the denoiser and the text encoders, each under the one name that kohya's tools write; of a
 * model that is not recognised, all under their own. Biases have "_bias" at the end. */
ck_status ck_lora__kohya_places(const ck_reader *model, ck_lora_places *places, ck_error *err);

/* The first of *count places of a layer; NULL when there is none. */
const ck_lora_place *ck_lora__find(const ck_lora_places *places, const char *layer, bool bias,
                                   size_t *count);

/* For DoRA: the magnitudes of layer i, released with free(). */
ck_status ck_lora__magnitudes(const ck_lora *lora, size_t i, float **items, ck_error *err);

/* What PEFT says about a file; *peft is NULL where it says nothing. */
typedef struct ck_lora_peft ck_lora_peft;
ck_status ck_lora__peft_open(const ck_reader *file, ck_lora_peft **peft, ck_error *err);
void ck_lora__peft_close(ck_lora_peft *peft); /* NULL is allowed */

/* Sets *scale to alpha / rank (rsLoRA: alpha / sqrt(rank)) where the layer's alpha is known. */
void ck_lora__peft_scale(const ck_lora_peft *peft, const char *layer, uint64_t rank, double *scale);

#endif
