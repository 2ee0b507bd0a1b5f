/* Whole models in folders as diffusers lays them out, see model_int.h. */
#include "distill/models/model_int.h"

#include "io/json.h"
#include "io/os.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- Files ---- */

typedef struct place {
    char path[PATH_MAX];
} place;

/* FOLDER/PART/NAME. (One that is too long is cut, and not there.) */
static const char *path_of(const char *folder, const char *part, const char *name, place *at) {
    snprintf(at->path, sizeof at->path, "%s/%s/%s", folder, part, name);
    return at->path;
}

static const char *config_of(const char *folder, const char *part, place *at) {
    return path_of(folder, part, "config.json", at);
}

static bool has_part(const char *folder, const char *part) {
    place at;
    return access(config_of(folder, part, &at), F_OK) == 0;
}

/* The first of these names that exists, else the first. */
static const char *find_file(const char *folder, const char *part, const char *const *names,
                             place *at) {
    for (size_t i = 0; names[i]; i++)
        if (access(path_of(folder, part, names[i], at), F_OK) == 0) return at->path;
    return path_of(folder, part, names[0], at);
}

/* given: a file in the place of the folder's own, or NULL. */
static ck_status open_weights(const char *folder, const char *part, const char *const *names,
                              const char *given, ck_params **params, ck_error *err) {
    place at;
    char prefix[40];
    if (!given && access(find_file(folder, part, names, &at), F_OK) != 0)
        return ck_fail(err, CK_IO,
                       "%s: there is no such file: download it, or name one that has this part "
                       "(--unet, --clip, --clip2, --t5, --vae)",
                       at.path);
    if (!given) return ck_params_open(at.path, "", params, err);
    snprintf(prefix, sizeof prefix, "%s.", part);
    return ck_params_open(given, prefix, params, err);
}

static const char *const model_files[] = {"diffusion_pytorch_model.safetensors",
                                          "diffusion_pytorch_model.safetensors.index.json",
                                          "diffusion_pytorch_model.fp16.safetensors", NULL};
static const char *const text_files[] = {"model.safetensors", "model.safetensors.index.json",
                                         "model.fp16.safetensors", NULL};

/* What every folder of a model has, to be read next. */
static ck_status need(const char *path, ck_error *err) {
    if (access(path, F_OK) == 0) return CK_OK;
    return ck_fail(err, CK_IO,
                   "%s: there is no such file, which the folder of a whole model has: download all "
                   "of that",
                   path);
}

/* ---- Text ---- */

static ck_status open_text(const char *folder, const char *suffix, const char *given, bool planned,
                           ck_model_text *t, ck_error *err) {
    char part[32];
    place at;
    snprintf(part, sizeof part, "text_encoder%s", suffix);
    CK_TRY(need(config_of(folder, part, &at), err));
    CK_TRY(ck_clip_read(at.path, &t->config, err));
    t->tokens = (size_t)t->config.positions;
    if (planned) return CK_OK;
    CK_TRY(ck_model__open_tokenizer(folder, suffix, t, err));
    return open_weights(folder, part, text_files, given, &t->params, err);
}

static ck_status open_t5(const char *folder, const char *suffix, const char *given, bool planned,
                         ck_model_t5 *t, ck_error *err) {
    char part[32];
    place at;
    snprintf(part, sizeof part, "text_encoder%s", suffix);
    CK_TRY(need(config_of(folder, part, &at), err));
    CK_TRY(ck_t5_read(at.path, &t->config, err));
    if (planned) return CK_OK;
    CK_TRY(ck_model__open_unigram(folder, suffix, t, err));
    return open_weights(folder, part, text_files, given, &t->params, err);
}

static ck_status open_texts(const char *folder, const ck_model_parts *parts, ck_model *m,
                            ck_error *err) {
    bool flux = m->kind == CK_MODEL_FLUX;
    bool t5 = flux || (m->kind == CK_MODEL_MMDIT && has_part(folder, "text_encoder_3"));
    m->texts = !flux && has_part(folder, "text_encoder_2") ? 2 : 1;
    if (parts->clip2 && m->texts < 2)
        return ck_fail(err, CK_USAGE, "--clip2: this model has one CLIP encoder");
    if (parts->t5 && !t5)
        return ck_fail(err, CK_USAGE, "--t5: the model's folder has no T5 with its tokenizer");
    CK_TRY(open_text(folder, "", parts->clip, m->planned, &m->text[0], err));
    if (m->texts == 2) CK_TRY(open_text(folder, "_2", parts->clip2, m->planned, &m->text[1], err));
    if (m->kind != CK_MODEL_UNET) m->t5.tokens = flux ? CK_MODEL__T5_FLUX : CK_MODEL__T5_SD3;
    return t5 ? open_t5(folder, flux ? "_2" : "_3", parts->t5, m->planned, &m->t5, err) : CK_OK;
}

/* ---- The rest ---- */

static ck_status read_index(const char *folder, ck_model *m, ck_error *err) {
    place at;
    ck_json doc;
    snprintf(at.path, sizeof at.path, "%s/model_index.json", folder);
    if (access(folder, F_OK) != 0)
        return ck_fail(err, CK_IO, "%s: there is no such folder or file", folder);
    CK_TRY(need(at.path, err));
    CK_TRY(ck_json_load(at.path, &doc, err));
    ck_status s = ck_json_bool(&doc, doc.root, "force_zeros_for_empty_prompt", &m->zero_empty, err);
    ck_json_free(&doc);
    return s;
}

/* A transformer's config says by its class which it is. */
static ck_status read_transformer(const char *path, ck_model *m, ck_error *err) {
    ck_json doc;
    const char *class = NULL;
    CK_TRY(ck_json_load(path, &doc, err));
    ck_status s = ck_json_text(&doc, doc.root, "_class_name", &class, err);
    bool flux = class && strcmp(class, "FluxTransformer2DModel") == 0;
    bool known = flux || (class && strcmp(class, "SD3Transformer2DModel") == 0);
    ck_json_free(&doc);
    CK_TRY(s);
    if (!known)
        return ck_fail(err, CK_INPUT,
                       "%s: the class is neither SD3Transformer2DModel nor FluxTransformer2DModel, "
                       "the transformers that can be used",
                       path);
    m->kind = flux ? CK_MODEL_FLUX : CK_MODEL_MMDIT;
    return flux ? ck_flux_read(path, &m->flux_config, err)
                : ck_mmdit_read(path, &m->mmdit_config, err);
}

/* The network's weights; in a plan as far as they are there. */
static ck_status open_network(const char *folder, const char *part, const char *given, ck_model *m,
                              ck_error *err) {
    ck_status s = open_weights(folder, part, model_files, given, &m->unet, err);
    if (s == CK_IO && m->planned) {
        m->unet = ck_params_new(0);
        m->absent = true;
        s = m->unet ? CK_OK : ck_fail_memory(err, folder);
    }
    if (s == CK_OK && given) ck_model__detect_guidance(m);
    if (s == CK_OK && m->planned) ck_params_hollow(m->unet);
    return s;
}

ck_status ck_model__open_folder(const char *folder, const ck_model_parts *parts, ck_model *m,
                                ck_error *err) {
    bool transformer = has_part(folder, "transformer");
    const char *part = transformer ? "transformer" : "unet";
    place at;
    CK_TRY(read_index(folder, m, err));
    CK_TRY(need(config_of(folder, part, &at), err));
    CK_TRY(transformer ? read_transformer(at.path, m, err)
                       : ck_unet_read(at.path, &m->unet_config, err));
    CK_TRY(need(config_of(folder, "vae", &at), err));
    CK_TRY(ck_vae_read(at.path, &m->vae_config, err));
    CK_TRY(need(path_of(folder, "scheduler", "scheduler_config.json", &at), err));
    CK_TRY(ck_schedule_read(at.path, &m->schedule, err));
    CK_TRY(open_network(folder, part, parts->unet, m, err));
    if (!m->planned) CK_TRY(open_weights(folder, "vae", model_files, parts->vae, &m->vae, err));
    return open_texts(folder, parts, m, err);
}
