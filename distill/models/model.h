/* A whole image model: UNet or transformer, VAE, text encoders with their tokenizers, schedule.
 *
 *   ck_model m;
 *   CK_TRY(ck_model_open("models/base", NULL, &m, err));
 *   CK_TRY(ck_model_encode_texts(&m, backend, prompts, 2, context, pooled, err));
 *   CK_TRY(ck_model_decode(&m, backend, latents, n, h, w, pixels, err));
 *   ck_model_close(&m);
 *
 * Weights are read when they are first needed, those of encoders and VAE as bfloat16 where the
 * backend takes them so.
 */
#ifndef CK_MODEL_H
#define CK_MODEL_H

#include "distill/engine/backend.h"
#include "distill/models/clip_text.h"
#include "distill/models/flux.h"
#include "distill/models/mmdit.h"
#include "distill/diffusion/schedule.h"
#include "distill/models/t5_text.h"
#include "distill/models/tokenizer.h"
#include "distill/models/unet.h"
#include "distill/models/unigram.h"
#include "distill/models/vae.h"

typedef struct ck_model_text {
    ck_clip_config config;
    ck_params *params;
    ck_tokenizer *tokenizer;
    size_t tokens;
} ck_model_text;

typedef struct ck_model_t5 {
    ck_t5_config config;
    ck_params *params; /* NULL: the model has none, or is used without */
    ck_unigram *tokenizer;
    size_t tokens;
} ck_model_t5;

typedef enum ck_model_kind {
    CK_MODEL_UNET,  /* Stable Diffusion 1, 2, XL */
    CK_MODEL_MMDIT, /* Stable Diffusion 3 */
    CK_MODEL_FLUX,
} ck_model_kind;

typedef struct ck_model {
    ck_model_kind kind;
    ck_unet_config unet_config; /* of these, the one of the kind */
    ck_mmdit_config mmdit_config;
    ck_flux_config flux_config;
    ck_params *unet; /* the weights of it, also of a transformer */
    ck_vae_config vae_config;
    ck_params *vae;
    ck_model_text text[2];
    size_t texts; /* 1, or 2 (SDXL, SD3) */
    ck_model_t5 t5;
    ck_schedule schedule;
    bool planned;    /* see ck_model_plan */
    bool absent;     /* planned, and there are no weights at all */
    size_t lost;     /* tokens of prompts that found no place in an encoder so far */
    bool zero_empty; /* the empty prompt is all zeros (SDXL) */
} ck_model;

/* Where else something lies than in the model's folder or file; each may be NULL. Of a file with a
 * whole model that part is taken. */
typedef struct ck_model_parts {
    const char *tokenizer; /* of a model in one file: a folder, see below */
    const char *unet;      /* or transformer */
    const char *clip, *clip2, *t5, *vae;
} ck_model_parts;

/* path: a folder as diffusers lays it out (Stable Diffusion 1, 2, XL, 3, FLUX); or one file of such
 * a model, under its makers' names or diffusers'. Text encoders and VAE that it lacks are given as
 * parts (SD3 goes without T5, too), its configs are told from shapes. A file has no vocabulary:
 * parts->tokenizer is a folder with vocab.json and merges.txt, and T5's tokenizer.json or
 * spiece.model, or with the folders tokenizer, tokenizer_2 and tokenizer_3 that diffusers' have.
 * parts may be NULL. CK_INPUT: a part is missing or not what its config says, with file and field;
 * a file with a model of unusual size, of which shapes do not say all. */
ck_status ck_model_open(const char *path, const ck_model_parts *parts, ck_model *m, ck_error *err);
/* Only what planning needs, before anything is downloaded or read: configs and, where there are
 * weights, their headers. The network's weights are hollow (params.h), text encoders and VAE cannot
 * be asked. One file needs no tokenizer; a transformer's, no other part. */
ck_status ck_model_plan(const char *path, const ck_model_parts *parts, ck_model *m, ck_error *err);
void ck_model_close(ck_model *m); /* a zeroed one is allowed */

/* Of latents: channels, the side that the network was trained on, of what sides are multiples. */
int64_t ck_model_channels(const ck_model *m);
size_t ck_model_side(const ck_model *m);
size_t ck_model_multiple(const ck_model *m);
/* Whether its blocks are computed again in the backward pass, instead of being kept. */
void ck_model_checkpoint(ck_model *m, bool on);
/* Whether the network is told the scale of guidance (LCM, FLUX dev). */
bool ck_model_guided(const ck_model *m);

/* Tokens of a prompt, numbers of each, numbers of its pooled output (0 without one). */
size_t ck_model_tokens(const ck_model *m);
size_t ck_model_width(const ck_model *m);
size_t ck_model_pooled(const ck_model *m);

/* n prompts to context[n tokens width] and, for models with a pooled output, pooled[n pooled]. */
ck_status ck_model_encode_texts(ck_model *m, const ck_backend *b, const char *const *prompts,
                                size_t n, float *context, float *pooled, ck_error *err);
/* Frees the encoders' weights; they are read again when they are needed. */
void ck_model_unload_texts(ck_model *m);

/* n images N H W C in [-1, 1] to the latents' mean, scaled for the UNet: n h w latent_channels,
 * with h = H / ck_vae_factor(). */
ck_status ck_model_encode(ck_model *m, const ck_backend *b, const float *pixels, size_t n,
                          size_t height, size_t width, float *latents, ck_error *err);
/* Reads the decoder's weights, and keeps none, and plans decoding n latents of h x w: what is wrong
 * with the weights, or too little memory, is said before the work begins. */
ck_status ck_model_check_decoder(ck_model *m, const ck_backend *b, size_t n, size_t h, size_t w,
                                 ck_error *err);
/* n latents of h x w to images. */
ck_status ck_model_decode(ck_model *m, const ck_backend *b, const float *latents, size_t n,
                          size_t h, size_t w, float *pixels, ck_error *err);

/* Bytes that encoding texts and decoding n latents of h x w take at most, weights and all; also of
 * a plan. Encoders that are not known (of a transformer's file alone) are left out. */
ck_status ck_model_text_memory(const ck_model *m, const ck_backend *b, size_t *bytes,
                               ck_error *err);
ck_status ck_model_decode_memory(const ck_model *m, const ck_backend *b, size_t n, size_t h,
                                 size_t w, size_t *bytes, ck_error *err);

#endif
