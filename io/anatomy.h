/* What a checkpoint is made of, told from the names and shapes of its tensors and its metadata.
 *
 *   ck_anatomy a;
 *   CK_TRY(ck_anatomy_of(reader, &a, err));
 *   a.architecture->title                      "Stable Diffusion XL base"
 *   for (size_t i = 0; i < a.component_count; i++) a.components[i] ...
 *   a.component_of[n]                          the component of tensor n
 *   ck_anatomy_free(&a);
 *
 * What is looked for stands in tables (anatomy_tables.c). Only names and shapes are read, except
 * for one small tensor that tells v-prediction in SD2.
 */
#ifndef CK_ANATOMY_H
#define CK_ANATOMY_H

#include "io/reader.h"

#include <stdbool.h>

/* How the tensors of a component are named and cut. */
typedef enum ck_layout {
    CK_LAYOUT_UNKNOWN,   /* of components that are named the same everywhere, such as T5 */
    CK_LAYOUT_ORIGINAL,  /* LDM, SGM, BFL: as the model's makers published it */
    CK_LAYOUT_DIFFUSERS, /* diffusers and transformers */
} ck_layout;

/* "unknown", "original", "diffusers" */
const char *ck_layout_name(ck_layout layout);

typedef enum ck_part {
    CK_PART_UNET,
    CK_PART_MMDIT, /* the SD3 transformer */
    CK_PART_FLUX,
    CK_PART_VAE,
    CK_PART_CLIP_L,
    CK_PART_CLIP_H, /* OpenCLIP ViT-H */
    CK_PART_CLIP_G, /* OpenCLIP ViT-bigG */
    CK_PART_T5,
    CK_PART_SAFETY,   /* the safety checker of SD1 folders */
    CK_PART_EMA,      /* averaged copies of the weights */
    CK_PART_TRAINING, /* schedules and other leftovers of training that no program loads */
    CK_PART_MARKER,   /* tensors whose presence says something: v_pred, ztsnr, ... */
    CK_PART_OTHER,    /* not recognised */
    CK_PART_COUNT,
} ck_part;

/* "UNet", "CLIP-L text encoder", ... */
const char *ck_part_title(ck_part part);
/* A word for file names and JSON: "unet", "clip_l", ... */
const char *ck_part_name(ck_part part);

/* Every part up to here is a network of its own. */
static inline bool ck_part_is_model(ck_part part) {
    return part <= CK_PART_T5;
}

typedef struct ck_component {
    ck_part part;
    ck_layout layout;
    const char *prefix; /* of its tensors' names; "" where it stands alone */
    bool bare;          /* its names lack the "text_model." that others have after the prefix */
    size_t tensors;
    uint64_t elements, nbytes;
    size_t by_dtype[CK_DTYPE_COUNT]; /* tensors */
    size_t needed; /* tensors that a complete one has at least; 0: not known, as in
                    * models of unusual size */
} ck_component;

enum { CK_MAX_COMPONENTS = 16, CK_MAX_MARKS = 16 };

typedef enum ck_architecture_id {
    CK_ARCH_UNKNOWN,
    CK_ARCH_SD1,
    CK_ARCH_SD2,
    CK_ARCH_SD2_UNCLIP,
    CK_ARCH_SDXL,
    CK_ARCH_SDXL_REFINER,
    CK_ARCH_SD3_MEDIUM,
    CK_ARCH_SD35_MEDIUM,
    CK_ARCH_SD35_LARGE,
    CK_ARCH_FLUX_DEV,
    CK_ARCH_FLUX_SCHNELL,
} ck_architecture_id;

/* What its denoiser is trained to predict. */
typedef enum ck_predicted {
    CK_PREDICTION_UNKNOWN,
    CK_PREDICTION_EPSILON,
    CK_PREDICTION_V,
    CK_PREDICTION_EDM,
    CK_PREDICTION_EDM_V,
    CK_PREDICTION_FLOW,
} ck_predicted;

/* "epsilon", "v", ... */
const char *ck_prediction_name(ck_predicted prediction);

typedef struct ck_architecture {
    ck_architecture_id id;
    const char *name;      /* "sdxl-base" */
    const char *title;     /* "Stable Diffusion XL base" */
    const char *modelspec; /* its id in ModelSpec metadata, or NULL */
} ck_architecture;

/* One thing that says where the model stands. */
typedef struct ck_mark {
    const char *place; /* "base", "merged", "finetuned", "distilled", "lora", ... */
    const char *text;  /* what says so */
} ck_mark;

typedef struct ck_anatomy {
    const ck_architecture *architecture; /* of the denoiser; never NULL */
    const char *variant;                 /* "inpainting", ...; NULL for the plain model */
    const char *unusual; /* the first size that is not the published model's ("width 32 instead of
                          * 320"), or NULL */
    ck_predicted prediction;
    const char *prediction_reason;
    bool zero_snr;    /* marked as trained with zero terminal signal-to-noise */
    ck_layout layout; /* of the denoiser, else of the first component that has one */
    ck_component components[CK_MAX_COMPONENTS]; /* models first */
    size_t component_count;
    unsigned char *component_of; /* for each tensor of the reader */
    ck_mark marks[CK_MAX_MARKS];
    size_t mark_count;
    char unusual_text[128]; /* behind `unusual` */
} ck_anatomy;

/* Never fails because a file is strange: what is not recognised is CK_ARCH_UNKNOWN and
 * CK_PART_OTHER. CK_MEMORY, and CK_IO or CK_INPUT when that one tensor cannot be read. */
ck_status ck_anatomy_of(const ck_reader *r, ck_anatomy *a, ck_error *err);
void ck_anatomy_free(ck_anatomy *a);

/* The first component of that part, or NULL. */
const ck_component *ck_anatomy_find(const ck_anatomy *a, ck_part part);

#endif
