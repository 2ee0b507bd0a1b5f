/* Recognising checkpoints by the tables of anatomy_int.h. */
#include "io/anatomy.h"
#include "io/anatomy_int.h"
#include "io/layout_int.h"
#include "io/os.h"
#include "io/reader_int.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const struct {
    const char *name, *title;
} parts[CK_PART_COUNT] = {
    [CK_PART_UNET] = {"unet", "UNet"},
    [CK_PART_MMDIT] = {"transformer", "SD3 transformer"},
    [CK_PART_FLUX] = {"transformer", "FLUX transformer"},
    [CK_PART_VAE] = {"vae", "VAE"},
    [CK_PART_CLIP_L] = {"clip_l", "CLIP-L text encoder"},
    [CK_PART_CLIP_H] = {"clip_h", "OpenCLIP-H text encoder"},
    [CK_PART_CLIP_G] = {"clip_g", "OpenCLIP-bigG text encoder"},
    [CK_PART_T5] = {"t5xxl", "T5 text encoder"},
    [CK_PART_SAFETY] = {"safety_checker", "safety checker"},
    [CK_PART_EMA] = {"ema", "EMA weights"},
    [CK_PART_TRAINING] = {"training", "leftovers of training"},
    [CK_PART_MARKER] = {"markers", "markers"},
    [CK_PART_OTHER] = {"other", "not recognised"},
};

const char *ck_part_title(ck_part part) {
    return parts[part].title;
}

const char *ck_part_name(ck_part part) {
    return parts[part].name;
}

const char *ck_layout_name(ck_layout layout) {
    static const char *const names[] = {"unknown", "original", "diffusers"};
    return names[layout];
}

const char *ck_prediction_name(ck_predicted prediction) {
    static const char *const names[] = {"unknown", "epsilon", "v", "edm", "edm-v", "flow"};
    return names[prediction];
}

const ck_component *ck_anatomy_find(const ck_anatomy *a, ck_part part) {
    for (size_t i = 0; i < a->component_count; i++)
        if (a->components[i].part == part) return &a->components[i];
    return NULL;
}

/* ---- Components ---- */

/* Room is left for one component of each part that is no model. */
enum { MAX_MODELS = CK_MAX_COMPONENTS - (CK_PART_COUNT - CK_PART_SAFETY) };

static bool has(const ck_reader *r, const char *prefix, const char *name) {
    char full[CK_MAX_NAME];
    return snprintf(full, sizeof full, "%s%s", prefix, name) < CK_MAX_NAME &&
           ck_reader_find(r, full);
}

static void find_components(const ck_reader *r, ck_anatomy *a) {
    for (const char *const *prefix = ck_prefixes; *prefix; prefix++)
        for (const ck_sign *sign = ck_signs; sign->part != CK_PART_OTHER; sign++) {
            if (!has(r, *prefix, sign->names[0]) ||
                (sign->names[1] && !has(r, *prefix, sign->names[1])))
                continue;
            const ck_component *last =
                a->component_count ? &a->components[a->component_count - 1] : NULL;
            bool again = last && last->part == sign->part && last->prefix == *prefix;
            if (!again && a->component_count < MAX_MODELS)
                a->components[a->component_count++] = (ck_component){.part = sign->part,
                                                                     .layout = sign->layout,
                                                                     .prefix = *prefix,
                                                                     .bare = sign->bare};
        }
}

/* The size of a dimension of a tensor by its original name; 0 if there is none. */
static uint64_t size_of(const ck_names *n, const char *name, size_t axis) {
    const ck_tensor *t = ck_names_find(n, name);
    return t && axis < t->rank ? t->shape[axis] : 0;
}

static bool clue_holds(const ck_names *n, const ck_clue *clue) {
    const ck_tensor *t = ck_names_find(n, clue->name);
    switch (clue->test) {
    case CK_HAS:
        return t;
    case CK_LACKS:
        return !t;
    case CK_RANK:
        return t && t->rank == clue->value;
    case CK_SIZE:
        return t && clue->axis < t->rank && t->shape[clue->axis] == clue->value;
    case CK_TEST_END:
        break;
    }
    return false;
}

static bool row_holds(const ck_names *n, const ck_architecture_row *row) {
    if (row->part != n->component->part) return false;
    for (size_t i = 0; i < CK_MAX_CLUES && row->clues[i].test != CK_TEST_END; i++)
        if (!clue_holds(n, &row->clues[i])) return false;
    return true;
}

static void add_mark(ck_anatomy *a, const ck_mark *mark) {
    if (a->mark_count < CK_MAX_MARKS) a->marks[a->mark_count++] = *mark;
}

/* Everything that the denoiser tells. */
static void find_architecture(const ck_names *denoiser, ck_component *c, ck_anatomy *a) {
    const ck_architecture_row *row = ck_architectures;
    while (row->part != CK_PART_OTHER && !row_holds(denoiser, row)) row++;
    a->architecture = &row->architecture;
    if (row->part == CK_PART_OTHER) return;
    c->needed = c->layout == CK_LAYOUT_DIFFUSERS ? row->needed_diffusers : row->needed_original;
    if (row->mark.place) add_mark(a, &row->mark);
    for (size_t i = 0; i < CK_MAX_USUAL && row->usual[i].label && !a->unusual; i++) {
        const ck_usual *u = &row->usual[i];
        uint64_t size = size_of(denoiser, u->name, u->axis);
        if (size == u->value) continue;
        snprintf(a->unusual_text, sizeof a->unusual_text, "%s %llu instead of %llu", u->label,
                 (unsigned long long)size, (unsigned long long)u->value);
        a->unusual = a->unusual_text;
    }
    for (const ck_variant *v = ck_variants; v->part != CK_PART_OTHER; v++)
        if (v->part == row->part && size_of(denoiser, v->name, v->axis) == v->value)
            a->variant = v->variant;
}

static bool is_clip(ck_part part) {
    return part == CK_PART_CLIP_L || part == CK_PART_CLIP_H || part == CK_PART_CLIP_G;
}

/* Which CLIP it is: by width; where that is none of the published ones, by its place in the file;
 * else by its names. */
static ck_part clip_part(const ck_names *n, const ck_anatomy *a) {
    const ck_component *c = n->component;
    uint64_t width = size_of(n, "token_embedding.weight", 1);
    for (const ck_width *w = ck_clip_widths; w->width; w++)
        if (w->width == width) return w->part;
    for (const ck_seat *s = ck_seats; s->architecture != CK_ARCH_UNKNOWN; s++)
        if (s->architecture == a->architecture->id && is_clip(s->part) &&
            (strcmp(s->original, c->prefix) == 0 || strcmp(s->diffusers, c->prefix) == 0))
            return s->part;
    return c->layout == CK_LAYOUT_DIFFUSERS ? CK_PART_CLIP_L : CK_PART_CLIP_G;
}

/* The component for tensors outside of models, made when the first one is met. */
static size_t group_of(ck_anatomy *a, const char *name) {
    const ck_group *g = ck_groups;
    while (g->part != CK_PART_OTHER && !ck_pattern_match(g->pattern, name)) g++;
    size_t i = 0;
    while (i < a->component_count && a->components[i].part != g->part) i++;
    if (i == a->component_count)
        a->components[a->component_count++] = (ck_component){.part = g->part, .prefix = ""};
    return i;
}

static bool in_group(const char *name) {
    for (const ck_group *g = ck_groups; g->part != CK_PART_OTHER; g++)
        if (ck_pattern_match(g->pattern, name)) return true;
    return false;
}

static void assign_tensors(const ck_reader *r, ck_anatomy *a) {
    ck_names names[CK_MAX_COMPONENTS];
    size_t models = a->component_count;
    for (size_t i = 0; i < models; i++) ck_names_init(&names[i], r, &a->components[i]);
    for (size_t t = 0; t < ck_reader_count(r); t++) {
        const ck_tensor *tensor = ck_reader_tensor(r, t);
        ck_name parsed;
        size_t i = 0;
        if (in_group(tensor->name)) i = models;
        while (i < models && !ck_names_parse(&names[i], tensor->name, &parsed)) i++;
        if (i >= models) i = group_of(a, tensor->name);
        a->component_of[t] = (unsigned char)i;
        ck_component *c = &a->components[i];
        c->tensors++;
        c->elements += tensor->elements;
        c->nbytes += tensor->nbytes;
        c->by_dtype[tensor->dtype]++;
    }
}

/* ---- Where it stands ---- */

static bool ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

static bool evidence_holds(const ck_reader *r, const ck_names *denoiser, ck_evidence evidence,
                           const char *key, const char *text) {
    if (evidence == CK_EVIDENCE_METADATA) {
        const char *value = ck_reader_meta(r, key);
        return value && (!text || strcasestr(value, text));
    }
    if (evidence == CK_EVIDENCE_DENOISER) return denoiser && ck_names_find(denoiser, key);
    for (size_t i = 0; i < ck_reader_count(r); i++) {
        const char *name = ck_reader_tensor(r, i)->name;
        if (evidence == CK_EVIDENCE_TENSOR ? ck_pattern_match(key, name) : ends_with(name, key))
            return true;
    }
    return false;
}

/* Standard deviation of a tensor's values. */
static ck_status deviation(const ck_reader *r, const ck_tensor *t, double *result, ck_error *err) {
    size_t count;
    const ck_kernels *k = ck_kernels_all(&count)[0];
    float *values = ck_alloc_array(t->elements, sizeof *values);
    void *raw = ck_alloc(t->nbytes);
    ck_status status =
        values && raw ? ck_reader_read(r, t, 0, raw, t->nbytes, err) : ck_fail_memory(err, r->path);
    if (status == CK_OK) {
        k->decode[t->dtype](values, raw, t->elements);
        double sum = 0, squares = 0;
        for (size_t i = 0; i < t->elements; i++) sum += values[i];
        double mean = sum / (double)t->elements;
        for (size_t i = 0; i < t->elements; i++) squares += (values[i] - mean) * (values[i] - mean);
        *result = sqrt(squares / (double)t->elements);
    }
    free(values);
    free(raw);
    return status;
}

/* SD2 models do not say what they predict; but training for v has left this bias more spread than
 * training for noise. The limit lies between those of the published models. */
#define SD2_BIAS "output_blocks.11.1.transformer_blocks.0.norm1.bias"
static const double sd2_v_deviation = 0.09;

static ck_status find_sd2_prediction(const ck_reader *r, const ck_names *denoiser, ck_anatomy *a,
                                     ck_error *err) {
    const ck_tensor *t = ck_names_find(denoiser, SD2_BIAS);
    if (!t || a->unusual || !ck_dtype_is_float(t->dtype) || t->elements != 320) return CK_OK;
    double spread;
    CK_TRY(deviation(r, t, &spread, err));
    if (isnan(spread)) return CK_OK;
    a->prediction = spread > sd2_v_deviation ? CK_PREDICTION_V : CK_PREDICTION_EPSILON;
    a->prediction_reason = "the spread of a bias in the UNet";
    return CK_OK;
}

static ck_status find_prediction(const ck_reader *r, const ck_names *denoiser, ck_anatomy *a,
                                 ck_error *err) {
    if (!denoiser) return CK_OK;
    for (const ck_prediction_row *row = ck_prediction_rows; row->evidence != CK_EVIDENCE_END; row++)
        if (evidence_holds(r, denoiser, row->evidence, row->key, row->text)) {
            a->prediction = row->prediction;
            a->prediction_reason = row->reason;
            return CK_OK;
        }
    if (a->architecture->id == CK_ARCH_UNKNOWN) return CK_OK;
    if (a->architecture->id == CK_ARCH_SD2) return find_sd2_prediction(r, denoiser, a, err);
    bool flow = denoiser->component->part != CK_PART_UNET;
    a->prediction = flow ? CK_PREDICTION_FLOW : CK_PREDICTION_EPSILON;
    a->prediction_reason = "usual for the architecture, and nothing says otherwise";
    return CK_OK;
}

static void find_marks(const ck_reader *r, const ck_names *denoiser, ck_anatomy *a) {
    for (const ck_mark_row *row = ck_mark_rows; row->evidence != CK_EVIDENCE_END; row++)
        if (evidence_holds(r, denoiser, row->evidence, row->key, row->text))
            add_mark(a, &row->mark);
}

static size_t needed_tensors(const ck_component *c) {
    for (const ck_needed *n = ck_needed_tensors; n->part != CK_PART_OTHER; n++)
        if (n->part == c->part)
            return c->layout == CK_LAYOUT_DIFFUSERS ? n->diffusers : n->original;
    return 0;
}

static ck_layout overall_layout(const ck_anatomy *a) {
    for (size_t i = 0; i < a->component_count; i++) {
        const ck_component *c = &a->components[i];
        /* CLIP-L goes by its transformers names in original files too. */
        if (c->layout != CK_LAYOUT_UNKNOWN && c->part != CK_PART_CLIP_L) return c->layout;
    }
    return CK_LAYOUT_UNKNOWN;
}

static bool is_denoiser(ck_part part) {
    return part == CK_PART_UNET || part == CK_PART_MMDIT || part == CK_PART_FLUX;
}

ck_status ck_anatomy_of(const ck_reader *r, ck_anatomy *a, ck_error *err) {
    *a = (ck_anatomy){0};
    const ck_architecture_row *unknown = ck_architectures;
    while (unknown->part != CK_PART_OTHER) unknown++;
    a->architecture = &unknown->architecture;
    a->component_of = ck_alloc(ck_reader_count(r));
    if (!a->component_of) return ck_fail_memory(err, r->path);

    find_components(r, a);
    ck_names names, *denoiser = NULL;
    for (size_t i = 0; i < a->component_count && !denoiser; i++) {
        if (!is_denoiser(a->components[i].part)) continue;
        denoiser = &names;
        ck_names_init(denoiser, r, &a->components[i]);
        find_architecture(denoiser, &a->components[i], a);
    }
    for (size_t i = 0; i < a->component_count; i++) {
        ck_component *c = &a->components[i];
        if (c->part == CK_PART_CLIP_L) {
            ck_names clip;
            ck_names_init(&clip, r, c);
            c->part = clip_part(&clip, a);
        }
        if (!c->needed) c->needed = needed_tensors(c);
        if (a->unusual) c->needed = 0;
    }
    assign_tensors(r, a);
    a->layout = overall_layout(a);
    find_marks(r, denoiser, a);
    a->zero_snr = ck_reader_find(r, "ztsnr") != NULL;
    ck_status status = find_prediction(r, denoiser, a, err);
    if (status != CK_OK) ck_anatomy_free(a);
    return status;
}

void ck_anatomy_free(ck_anatomy *a) {
    free(a->component_of);
    a->component_of = NULL;
}
