/* A reader over another one; a scaled weight is decoded and multiplied strip by strip. */
#include "io/scaled.h"
#include "io/json.h"
#include "io/os.h"
#include "io/reader_int.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A tensor of the result; its ck_tensor's offset is its number here. */
typedef struct part {
    const ck_tensor *tensor; /* of the source */
    float *scales;           /* NULL: as it is */
    uint64_t row;            /* elements that one scale is for */
} part;

typedef struct scaled_state {
    const ck_reader *source;
    const ck_kernels *kernels;
    part *parts;
    size_t count;
} scaled_state;

static bool ends_with(const char *name, const char *ending) {
    size_t n = strlen(name), m = strlen(ending);
    return n >= m && strcmp(name + n - m, ending) == 0;
}

static const char *ending_of(const char *name, const char *const *endings) {
    while (*endings && !ends_with(name, *endings)) endings++;
    return *endings;
}

static const char *const scales[] = {".scale_weight", ".weight_scale", NULL};
/* What belongs to scaled weights and means nothing without them. */
static const char *const companions[] = {".scale_weight",
                                         ".weight_scale",
                                         ".scale_input",
                                         ".input_scale",
                                         ".comfy_quant",
                                         "scaled_fp8",
                                         NULL};
/* Quantisations that cannot be undone by one factor a row, by the endings of their tensors: the
 * first that any tensor has gives the name. */
static const struct {
    const char *ending, *name;
} foreign[] = {
    {".comfy_quant", NULL}, /* its text has the name */
    {"bitsandbytes__nf4", "nf4 (bitsandbytes)"},
    {"bitsandbytes__fp4", "fp4 (bitsandbytes)"},
    {".absmax", "4 bits (bitsandbytes)"},
    {".quant_map", "4 bits (bitsandbytes)"},
    {".SCB", "int8 (bitsandbytes)"},
    {".weight_scale_2", "nvfp4"},
    {".weight_scale_inv", "f8 in blocks (weight_scale_inv)"},
    {".pre_quant_scale", "with factors of the inputs (pre_quant_scale)"},
};

static ck_status refuse(const ck_reader *r, const char *tensor, const char *what, ck_error *err) {
    return ck_fail(
        err, CK_INPUT,
        "%s: tensor '%s': %s, which is not read; convert the model to f16 with the program "
        "that made it",
        ck_reader_path(r), tensor, what);
}

/* The formats that a JSON text names, wherever "format" stands in it, must be f8. */
static ck_status check_formats(const ck_reader *r, const char *tensor, const cJSON *json,
                               ck_error *err) {
    const cJSON *format = cJSON_GetObjectItemCaseSensitive(json, "format");
    if (cJSON_IsString(format) && strcmp(format->valuestring, "float8_e4m3fn") != 0 &&
        strcmp(format->valuestring, "float8_e5m2") != 0) {
        char what[96];
        snprintf(what, sizeof what, "quantised as '%.40s'", format->valuestring);
        return refuse(r, tensor, what, err);
    }
    for (const cJSON *child = json->child; child; child = child->next)
        if (cJSON_IsObject(child)) CK_TRY(check_formats(r, tensor, child, err));
    return CK_OK;
}

static ck_status check_text(const ck_reader *r, const char *tensor, const char *text, size_t n,
                            ck_error *err) {
    ck_json doc;
    if (ck_json_parse(tensor, text, n, &doc, err) != CK_OK)
        return ck_context(err, "%s", ck_reader_path(r));
    ck_status status = check_formats(r, tensor, doc.root, err);
    ck_json_free(&doc);
    return status;
}

static ck_status check_marker(const ck_reader *r, const ck_tensor *t, ck_error *err) {
    char text[1024];
    if (t->nbytes >= sizeof text) return refuse(r, t->name, "a quantisation of unknown form", err);
    CK_TRY(ck_reader_read(r, t, 0, text, (size_t)t->nbytes, err));
    return check_text(r, t->name, text, (size_t)t->nbytes, err);
}

static ck_status refuse_foreign(const ck_reader *r, size_t kind, ck_error *err) {
    char what[96];
    for (size_t i = 0; i < ck_reader_count(r); i++) {
        const ck_tensor *t = ck_reader_tensor(r, i);
        if (!ends_with(t->name, foreign[kind].ending)) continue;
        if (!foreign[kind].name) {
            CK_TRY(check_marker(r, t, err));
            continue;
        }
        snprintf(what, sizeof what, "quantised as %s", foreign[kind].name);
        return refuse(r, t->name, what, err);
    }
    return CK_OK;
}

/* Refuses what is foreign; says whether there is anything scaled. */
static ck_status look(const ck_reader *r, bool *scaled, ck_error *err) {
    *scaled = false;
    for (size_t kind = 0; kind < sizeof foreign / sizeof *foreign; kind++)
        CK_TRY(refuse_foreign(r, kind, err));
    for (size_t i = 0; i < ck_reader_count(r); i++)
        *scaled |= ending_of(ck_reader_tensor(r, i)->name, companions) != NULL;
    const char *metadata = ck_reader_meta(r, "_quantization_metadata");
    if (!*scaled || !metadata) return CK_OK;
    return check_text(r, "_quantization_metadata", metadata, strlen(metadata), err);
}

/* The scale tensor of a weight, or NULL. */
static ck_status find_scale(const ck_reader *r, const ck_tensor *t, const ck_tensor **scale,
                            ck_error *err) {
    *scale = NULL;
    if (!ends_with(t->name, ".weight")) return CK_OK;
    int stem = (int)(strlen(t->name) - strlen(".weight"));
    for (size_t i = 0; scales[i] && !*scale; i++) {
        char *name = ck_sprintf("%.*s%s", stem, t->name, scales[i]);
        if (!name) return ck_fail_memory(err, ck_reader_path(r));
        *scale = ck_reader_find(r, name);
        free(name);
    }
    return CK_OK;
}

/* Reads the scales of a weight into the part. */
static ck_status read_scales(ck_reader *plain, part *p, const ck_tensor *scale, ck_error *err) {
    const scaled_state *state = plain->state;
    const ck_tensor *t = p->tensor;
    uint64_t rows = t->rank ? t->shape[0] : 1, n = scale->elements;
    if (t->dtype != CK_F8_E4M3 && t->dtype != CK_F8_E5M2) {
        char what[96];
        snprintf(what, sizeof what, "%s with a scale", ck_dtype_name(t->dtype));
        return refuse(state->source, t->name, what, err);
    }
    if (!ck_dtype_is_float(scale->dtype) || n == 0 || (n != 1 && n != rows)) {
        char shape[64];
        return ck_fail(
            err, CK_INPUT,
            "%s: tensor '%s' of shape %s: neither one scale nor one for each of %llu rows",
            plain->path, scale->name, ck_tensor_shape_text(scale, shape, sizeof shape),
            (unsigned long long)rows);
    }
    p->row = n == 1 ? t->elements : t->elements / rows;
    p->scales = ck_arena_alloc(&plain->arena, (size_t)n * sizeof *p->scales);
    void *raw = ck_alloc((size_t)scale->nbytes);
    ck_status status =
        p->scales && raw ? ck_reader_read(state->source, scale, 0, raw, (size_t)scale->nbytes, err)
                         : ck_fail_memory(err, plain->path);
    if (status == CK_OK) state->kernels->decode[scale->dtype](p->scales, raw, (size_t)n);
    free(raw);
    for (uint64_t i = 0; i < n && status == CK_OK; i++)
        if (!isfinite(p->scales[i]))
            status = ck_fail(err, CK_INPUT, "%s: tensor '%s': scale %llu is not a number",
                             plain->path, scale->name, (unsigned long long)i);
    return status;
}

static ck_status add_tensor(ck_reader *plain, const ck_tensor *t, size_t *count, ck_error *err) {
    scaled_state *state = plain->state;
    if (ending_of(t->name, companions)) return CK_OK;
    part *p = &state->parts[state->count];
    const ck_tensor *scale;
    p->tensor = t;
    CK_TRY(find_scale(state->source, t, &scale, err));
    if (scale) CK_TRY(read_scales(plain, p, scale, err));
    *count += scale != NULL;
    return ck_reader__add(plain, t->name, strlen(t->name), scale ? CK_F32 : t->dtype, t->rank,
                          t->shape, state->count++, err);
}

/* Elements [first, first + n) of a scaled weight, n <= CK_STRIP. */
static ck_status read_strip(const scaled_state *state, const part *p, uint64_t first, size_t n,
                            float *values, ck_error *err) {
    unsigned char raw[CK_STRIP];
    CK_TRY(ck_reader_read(state->source, p->tensor, first, raw, n, err));
    state->kernels->decode[p->tensor->dtype](values, raw, n);
    for (size_t at = 0; at < n;) {
        uint64_t row = (first + at) / p->row, left = (row + 1) * p->row - (first + at);
        size_t m = left < n - at ? (size_t)left : n - at;
        state->kernels->scale(values + at, values + at, p->scales[row], m);
        at += m;
    }
    return CK_OK;
}

static ck_status read_scaled(const ck_reader *r, const ck_tensor *t, uint64_t begin, void *dst,
                             size_t n, ck_error *err) {
    const scaled_state *state = r->state;
    const part *p = &state->parts[t->offset];
    if (!p->scales) return ck_reader_read(state->source, p->tensor, begin, dst, n, err);
    float values[CK_STRIP];
    for (size_t done = 0; done < n;) {
        size_t strip = (n - done) / sizeof(float);
        if (strip > CK_STRIP) strip = CK_STRIP;
        CK_TRY(read_strip(state, p, (begin + done) / sizeof(float), strip, values, err));
        memcpy((char *)dst + done, values, strip * sizeof(float));
        done += strip * sizeof(float);
    }
    return CK_OK;
}

static void close_scaled(ck_reader *r) {
    scaled_state *state = r->state;
    if (state) free(state->parts);
    free(state);
}

static const ck_format format_scaled = {
    .name = "scaled", .read = read_scaled, .close = close_scaled};

static ck_status fill(ck_reader *plain, const ck_reader *source, size_t *count, ck_error *err) {
    scaled_state *state = plain->state = ck_alloc(sizeof *state);
    if (!state) return ck_fail_memory(err, plain->path);
    state->source = source;
    state->kernels = ck_kernels_best();
    if (!state->kernels)
        return ck_fail(err, CK_USAGE, "CK_ISA names no instruction set of this processor");
    state->parts = ck_alloc_array(ck_reader_count(source), sizeof *state->parts);
    if (!state->parts) return ck_fail_memory(err, plain->path);
    for (size_t i = 0; i < ck_reader_count(source); i++)
        CK_TRY(add_tensor(plain, ck_reader_tensor(source, i), count, err));
    size_t n;
    const ck_meta *meta = ck_reader_metadata(source, &n);
    for (size_t i = 0; i < n; i++)
        if (strcmp(meta[i].key, "_quantization_metadata") != 0)
            CK_TRY(ck_reader__add_meta(plain, meta[i].key, strlen(meta[i].key), meta[i].value,
                                       strlen(meta[i].value), err));
    return ck_reader__finish(plain, err);
}

ck_status ck_scaled_open(const ck_reader *source, ck_reader **plain, size_t *count, ck_error *err) {
    bool scaled;
    *plain = NULL;
    *count = 0;
    CK_TRY(look(source, &scaled, err));
    if (!scaled) return CK_OK;
    ck_reader *r = ck_alloc(sizeof *r);
    if (!r) return ck_fail_memory(err, ck_reader_path(source));
    r->fd = -1;
    r->format = &format_scaled;
    r->path = ck_strdup(ck_reader_path(source));
    ck_status status =
        r->path ? fill(r, source, count, err) : ck_fail_memory(err, ck_reader_path(source));
    if (status != CK_OK) {
        ck_reader_close(r);
        return status;
    }
    *plain = r;
    return CK_OK;
}
