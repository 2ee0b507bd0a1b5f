/* Whole models in one file, or in one and files with parts beside it, see model_int.h. What a file
 * does not say is what was published (io/pipeline.h), or is told from shapes (detect_int.h). */
#include "distill/models/model_int.h"

#include "distill/models/detect_int.h"
#include "io/json.h"
#include "io/os.h"
#include "io/pipeline.h"

#include <stdlib.h>
#include <string.h>

typedef struct source {
    const char *path;
    const ck_reader *reader;
    ck_anatomy anatomy;
    const ck_model_parts *parts;
} source;

static ck_architecture_id id_of(const source *s) {
    return s->anatomy.architecture->id;
}

/* ---- What it is ---- */

static bool has_network(const ck_anatomy *a) {
    return ck_anatomy_find(a, CK_PART_UNET) || ck_anatomy_find(a, CK_PART_MMDIT) ||
           ck_anatomy_find(a, CK_PART_FLUX);
}

static ck_status find_kind(const source *s, ck_model *m, ck_error *err) {
    const ck_anatomy *a = &s->anatomy;
    switch (id_of(s)) {
    case CK_ARCH_SD1:
    case CK_ARCH_SD2:
    case CK_ARCH_SDXL:
        m->kind = CK_MODEL_UNET;
        break;
    case CK_ARCH_SD3_MEDIUM:
    case CK_ARCH_SD35_MEDIUM:
    case CK_ARCH_SD35_LARGE:
        m->kind = CK_MODEL_MMDIT;
        break;
    case CK_ARCH_FLUX_DEV:
    case CK_ARCH_FLUX_SCHNELL:
        m->kind = CK_MODEL_FLUX;
        break;
    default:
        if (!has_network(a))
            return ck_fail(err, CK_INPUT,
                           "%s: has no UNet and no transformer: --model (a config's teacher) names "
                           "the file with the network, the others its text encoders and VAE",
                           s->path);
        return ck_fail(
            err, CK_INPUT,
            "%s: %s: of models in one file, Stable Diffusion 1, 2, XL, 3 and FLUX can be "
            "opened; others as folders",
            s->path, a->architecture->title);
    }
    if (a->unusual && m->kind == CK_MODEL_UNET)
        return ck_fail(err, CK_INPUT,
                       "%s: a %s of unusual size (%s): the file does not say how many heads and "
                       "groups it has; open it as a folder with config.json files",
                       s->path, a->architecture->title, a->unusual);
    if (a->prediction == CK_PREDICTION_EDM || a->prediction == CK_PREDICTION_EDM_V)
        return ck_fail(err, CK_INPUT, "%s: EDM's noise levels (%s) are not implemented", s->path,
                       a->prediction_reason);
    return CK_OK;
}

/* ---- What was published ---- */

static ck_status read_schedule(const source *s, ck_model *m, ck_error *err) {
    cJSON *config;
    CK_TRY(ck_pipeline_scheduler(s->reader, &s->anatomy, &config, err));
    char *text = cJSON_PrintUnformatted(config);
    cJSON_Delete(config);
    ck_status status = text ? ck_schedule_parse(s->path, text, strlen(text), &m->schedule, err)
                            : ck_fail_memory(err, s->path);
    free(text);
    return status;
}

/* Two numbers of a published config.json, which stay where it says nothing. */
static ck_status read_numbers(const source *s, ck_part part, const char *first, double *a,
                              const char *second, double *b, ck_error *err) {
    const char *text = ck_pipeline_published(&s->anatomy, part);
    ck_json doc;
    if (!text) return CK_OK;
    CK_TRY(ck_json_parse(s->path, text, strlen(text), &doc, err));
    ck_status status = ck_json_number(&doc, doc.root, first, a, err);
    if (status == CK_OK) status = ck_json_number(&doc, doc.root, second, b, err);
    ck_json_free(&doc);
    return status;
}

static ck_status read_published(const source *s, ck_model *m, ck_error *err) {
    ck_vae_config *v = &m->vae_config;
    double side = 64, none = 0;
    ck_part network = m->kind == CK_MODEL_UNET ? CK_PART_UNET : CK_PART_MMDIT;
    CK_TRY(read_schedule(s, m, err));
    CK_TRY(
        read_numbers(s, CK_PART_VAE, "scaling_factor", &v->scale, "shift_factor", &v->shift, err));
    CK_TRY(read_numbers(s, network, "sample_size", &side, "", &none, err));
    /* Stable Diffusion 2 was trained further for v, on larger images. */
    if (id_of(s) == CK_ARCH_SD2 && m->schedule.prediction == CK_PREDICT_V) side = 96;
    m->unet_config.sample_size = m->mmdit_config.sample_size = (int64_t)side;
    m->zero_empty = id_of(s) == CK_ARCH_SDXL;
    return CK_OK;
}

/* ---- Parts ---- */

/* The file that has a part, or NULL. */
static const char *find_part(const source *s, ck_part part, const char *given) {
    if (given) return given;
    return ck_anatomy_find(&s->anatomy, part) ? s->path : NULL;
}

/* name: of diffusers' folder; option: what it is given by. */
static ck_status open_part(const source *s, ck_part part, const char *name, const char *option,
                           const char *given, ck_params **params, ck_error *err) {
    const char *path = find_part(s, part, given);
    if (path) return ck_params_open(path, name, params, err);
    return ck_fail(err, CK_INPUT,
                   "%s: has no %s: --%s (a config's parts.%s) names a file that has one", s->path,
                   ck_part_title(part), option, option);
}

static ck_status open_network(const source *s, ck_model *m, ck_error *err) {
    const char *path = s->parts->unet ? s->parts->unet : s->path;
    CK_TRY(
        ck_params_open(path, m->kind == CK_MODEL_UNET ? "unet." : "transformer.", &m->unet, err));
    if (m->kind == CK_MODEL_UNET) return ck_detect__unet(m->unet, &m->unet_config, err);
    return m->kind == CK_MODEL_FLUX ? ck_detect__flux(m->unet, &m->flux_config, err)
                                    : ck_detect__mmdit(m->unet, &m->mmdit_config, err);
}

static ck_status open_vae(const source *s, ck_model *m, ck_error *err) {
    /* A plan of a transformer's file alone takes it to be the published one. */
    if (m->planned && m->kind != CK_MODEL_UNET && !find_part(s, CK_PART_VAE, s->parts->vae)) {
        m->vae_config = (ck_vae_config){.in_channels = 3,
                                        .out_channels = 3,
                                        .channels = {128, 256, 512, 512},
                                        .levels = 4,
                                        .layers = 2,
                                        .groups = 32,
                                        .attention = true};
        m->vae_config.latent_channels = ck_model_channels(m);
        return CK_OK;
    }
    CK_TRY(open_part(s, CK_PART_VAE, "vae.", "vae", s->parts->vae, &m->vae, err));
    return ck_detect__vae(m->vae, &m->vae_config, err);
}

/* OpenCLIP's encoders were trained with other padding than OpenAI's; their vocabularies are the
 * same otherwise, so that a mistake would not show but in the pictures. */
static ck_status find_padding(const ck_model_text *t, const char *tokenizer, ck_error *err) {
    bool openai = t->config.activation == CK_QUICK_GELU;
    if (!ck_tokenizer_knows_padding(t->tokenizer)) {
        if (!openai) ck_tokenizer_pad_openclip(t->tokenizer);
        return CK_OK;
    }
    size_t lost, length = ck_tokenizer_length(t->tokenizer);
    int32_t *ids = ck_alloc_array(length, sizeof *ids);
    if (!ids) return ck_fail_memory(err, tokenizer);
    ck_status s = ck_tokenizer_encode(t->tokenizer, "", ids, &lost, err);
    bool ends = s == CK_OK && ids[length - 1] == ck_tokenizer_end(t->tokenizer);
    free(ids);
    if (s == CK_OK && ends != openai)
        return ck_fail(err, CK_INPUT,
                       "%s: this is not the tokenizer of this text encoder: it pads with %s; take "
                       "that of a folder of the same model, or one with vocab.json and merges.txt "
                       "alone",
                       tokenizer, ends ? "the end token" : "another than the end token");
    return s;
}

/* A network that is not a UNet tells itself how wide text is, which is all that a plan needs. */
static bool can_lack(const source *s, const ck_model *m, ck_part part, const char *given) {
    return m->planned && m->kind != CK_MODEL_UNET && !find_part(s, part, given);
}

static ck_status open_text(const source *s, ck_part part, int which, const char *given, ck_model *m,
                           ck_error *err) {
    static const char *const names[] = {"text_encoder.", "text_encoder_2."};
    static const char *const options[] = {"clip", "clip2"};
    ck_model_text *t = &m->text[which];
    t->tokens = 77;
    if (can_lack(s, m, part, given)) return CK_OK;
    CK_TRY(open_part(s, part, names[which], options[which], given, &t->params, err));
    CK_TRY(ck_detect__clip(t->params, part == CK_PART_CLIP_L, &t->config, err));
    t->tokens = (size_t)t->config.positions;
    if (m->planned) return CK_OK;
    CK_TRY(ck_model__open_tokenizer(s->parts->tokenizer, which ? "_2" : "", t, err));
    return find_padding(t, s->parts->tokenizer, err);
}

/* SD3 goes without, too. */
static ck_status open_t5(const source *s, ck_model *m, ck_error *err) {
    bool flux = m->kind == CK_MODEL_FLUX;
    ck_model_t5 *t = &m->t5;
    t->tokens = flux ? CK_MODEL__T5_FLUX : CK_MODEL__T5_SD3;
    if (can_lack(s, m, CK_PART_T5, s->parts->t5) ||
        (!flux && !find_part(s, CK_PART_T5, s->parts->t5)))
        return CK_OK;
    CK_TRY(open_part(s, CK_PART_T5, flux ? "text_encoder_2." : "text_encoder_3.", "t5",
                     s->parts->t5, &t->params, err));
    CK_TRY(ck_detect__t5(t->params, &t->config, err));
    return m->planned ? CK_OK
                      : ck_model__open_unigram(s->parts->tokenizer, flux ? "_2" : "_3", t, err);
}

static ck_status open_texts(const source *s, ck_model *m, ck_error *err) {
    const ck_model_parts *p = s->parts;
    bool two = id_of(s) == CK_ARCH_SDXL || m->kind == CK_MODEL_MMDIT;
    m->texts = two ? 2 : 1;
    if (p->clip2 && !two) return ck_fail(err, CK_USAGE, "--clip2: this model has one CLIP encoder");
    if (p->t5 && m->kind == CK_MODEL_UNET)
        return ck_fail(err, CK_USAGE, "--t5: this model has no T5");
    ck_part first = id_of(s) == CK_ARCH_SD2 ? CK_PART_CLIP_H : CK_PART_CLIP_L;
    CK_TRY(open_text(s, first, 0, p->clip, m, err));
    if (two) CK_TRY(open_text(s, CK_PART_CLIP_G, 1, p->clip2, m, err));
    /* Stable Diffusion 2 takes what leaves the last but one layer. */
    if (first == CK_PART_CLIP_H && m->text[0].config.layers == 24) m->text[0].config.layers = 23;
    return m->kind == CK_MODEL_UNET ? CK_OK : open_t5(s, m, err);
}

static ck_status open_parts(const source *s, ck_model *m, ck_error *err) {
    CK_TRY(find_kind(s, m, err));
    CK_TRY(open_network(s, m, err));
    CK_TRY(open_vae(s, m, err));
    CK_TRY(open_texts(s, m, err));
    if (m->planned) ck_params_hollow(m->unet);
    return read_published(s, m, err);
}

ck_status ck_model__open_file(const char *path, const ck_model_parts *parts, ck_model *m,
                              ck_error *err) {
    ck_reader *r;
    source s = {.path = path, .parts = parts};
    if (!parts->tokenizer && !m->planned)
        return ck_fail(
            err, CK_USAGE,
            "%s: a model in one file has no vocabulary: --tokenizer (a config's "
            "tokenizer) names a folder with vocab.json and merges.txt, such as any "
            "Stable Diffusion folder has; with T5, with its tokenizer.json or spiece.model, too",
            path);
    CK_TRY(ck_reader_open(path, &r, err));
    s.reader = r;
    ck_status status = ck_anatomy_of(r, &s.anatomy, err);
    if (status == CK_OK) {
        status = open_parts(&s, m, err);
        ck_anatomy_free(&s.anatomy);
    }
    ck_reader_close(r);
    return status;
}
