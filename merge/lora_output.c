/* Options, metadata and reports of the commands that write LoRAs. */
#include "merge/lora_output.h"
#include "io/os.h"
#include "io/view.h"
#include "merge/recipe.h"
#include "merge/save.h"
#include "merge/tool.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_RANK = 65536 };

static ck_status parse_dynamic(const char *text, ck_lora_cut *cut, ck_error *err) {
    const char *equals = strchr(text, '=');
    char kind[16], *end;
    snprintf(kind, sizeof kind, "%.*s", equals ? (int)(equals - text) : 0, text);
    int index = ck_word_index(CK_DYNAMIC_WORDS, kind);
    cut->value = equals ? strtod(equals + 1, &end) : 0;
    if (index <= 0 || end == equals + 1 || *end)
        return ck_fail(err, CK_USAGE,
                       "--dynamic %s: must be ratio=X, cumulative=X or fro=X, X a number", text);
    cut->dynamic = (ck_lora_dynamic)index;
    bool ratio = cut->dynamic == CK_DYNAMIC_RATIO;
    if (ratio ? !(cut->value > 1 && isfinite(cut->value)) : !(cut->value > 0 && cut->value <= 1))
        return ck_fail(err, CK_USAGE, "--dynamic %s: must be %s", text,
                       ratio ? "larger than 1" : "larger than 0 and at most 1");
    return CK_OK;
}

ck_status ck_lora_output_options(const ck_lora_output *o, ck_lora_make_options *options,
                                 ck_error *err) {
    *options = (ck_lora_make_options){.dtype = o->dtype ? ck_recipe_dtype(o->dtype) : CK_F16,
                                      .threads = o->threads > 1024 ? 1024 : (unsigned)o->threads};
    ck_lora_cut *cut = &options->cut;
    if (!o->path) return ck_fail(err, CK_USAGE, "-o OUT is needed");
    if (!o->force && access(o->path, F_OK) == 0)
        return ck_fail(err, CK_USAGE, "%s exists; --force replaces it", o->path);
    if ((o->rank_given && o->rank == 0) || o->rank > MAX_RANK || o->conv_rank > MAX_RANK)
        return ck_fail(err, CK_USAGE, "a rank must be from 1 to %d", MAX_RANK);
    cut->rank = (size_t)o->rank;
    cut->conv_rank = o->conv_given ? (size_t)o->conv_rank : cut->rank;
    if (o->conv_given && !o->rank_given) return ck_fail(err, CK_USAGE, "--conv-rank needs --rank");
    return o->dynamic ? parse_dynamic(o->dynamic, cut, err) : CK_OK;
}

/* ---- Metadata ---- */

/* What kohya's tools call a base model; NULL: nothing. */
static const char *base_version(ck_architecture_id id) {
    switch (id) {
    case CK_ARCH_SD1:
        return "sd_v1";
    case CK_ARCH_SD2:
    case CK_ARCH_SD2_UNCLIP:
        return "sd_v2";
    case CK_ARCH_SDXL:
    case CK_ARCH_SDXL_REFINER:
        return "sdxl_base_v1-0";
    case CK_ARCH_SD3_MEDIUM:
    case CK_ARCH_SD35_MEDIUM:
    case CK_ARCH_SD35_LARGE:
        return "sd3";
    case CK_ARCH_FLUX_DEV:
    case CK_ARCH_FLUX_SCHNELL:
        return "flux1";
    default:
        return NULL;
    }
}

static ck_status set(ck_reader *lora, const char *key, const char *value, ck_error *err) {
    return value ? ck_view_set_metadata(lora, key, value, err) : CK_OK;
}

/* What the LoRA is for. */
static ck_status add_purpose(ck_reader *lora, const ck_architecture *architecture,
                             const ck_reader *like, ck_error *err) {
    static const char *const keys[] = {"ss_base_model_version", "modelspec.sai_model_spec",
                                       "modelspec.architecture"};
    for (size_t i = 0; !architecture && i < sizeof keys / sizeof *keys; i++)
        CK_TRY(set(lora, keys[i], ck_reader_meta(like, keys[i]), err));
    if (!architecture) return CK_OK;
    CK_TRY(set(lora, "ss_base_model_version", base_version(architecture->id), err));
    if (!architecture->modelspec) return CK_OK;
    char kind[96];
    snprintf(kind, sizeof kind, "%s/lora", architecture->modelspec);
    CK_TRY(set(lora, "modelspec.sai_model_spec", "1.0.0", err));
    return set(lora, "modelspec.architecture", kind, err);
}

static ck_status add_metadata(ck_reader *lora, const ck_lora_cut *cut, ck_error *err) {
    char rank[24] = "Dynamic", args[96];
    bool fixed = cut->dynamic == CK_DYNAMIC_NONE && cut->rank;
    if (fixed) snprintf(rank, sizeof rank, "%zu", cut->rank);
    CK_TRY(set(lora, "ss_network_module", "networks.lora", err));
    CK_TRY(set(lora, "ss_network_dim", rank, err));
    CK_TRY(set(lora, "ss_network_alpha", rank, err));
    snprintf(args, sizeof args, "{\"conv_dim\": \"%zu\", \"conv_alpha\": \"%zu\"}", cut->conv_rank,
             cut->conv_rank);
    return fixed && cut->conv_rank ? set(lora, "ss_network_args", args, err) : CK_OK;
}

/* ---- Reports ---- */

static ck_status report_json(const ck_lora_output *o, const ck_lora_made *made,
                             const ck_save_result *saved, ck_error *err) {
    cJSON *json = cJSON_CreateObject();
    bool ok = cJSON_AddStringToObject(json, "output", o->path) &&
              cJSON_AddNumberToObject(json, "bytes", (double)saved->bytes) &&
              cJSON_AddNumberToObject(json, "layers", (double)made->layers) &&
              cJSON_AddNumberToObject(json, "unchanged", (double)made->unchanged) &&
              cJSON_AddNumberToObject(json, "least_rank", (double)made->least_rank) &&
              cJSON_AddNumberToObject(json, "most_rank", (double)made->most_rank) &&
              cJSON_AddNumberToObject(json, "kept", made->kept);
    if (made->worst)
        ok = ok && cJSON_AddStringToObject(json, "worst_layer", made->worst) &&
             cJSON_AddNumberToObject(json, "worst_kept", made->worst_kept);
    return ck_tool_print_json(json, ok, err);
}

static ck_status report(const ck_lora_output *o, const ck_lora_made *made,
                        const ck_save_result *saved, ck_error *err) {
    char bytes[32];
    if (saved->clipped && !o->quiet)
        fprintf(stderr, "cktool: warning: %llu values were too large for the type of %s\n",
                (unsigned long long)saved->clipped, o->path);
    if (o->json) return report_json(o, made, saved, err);
    if (o->quiet) return CK_OK;
    printf("%s: %zu layers, %s\n", o->path, made->layers,
           ck_format_bytes(bytes, sizeof bytes, saved->bytes));
    if (made->unchanged) printf("%8zu layers unchanged or left out\n", made->unchanged);
    if (made->worst)
        printf("%8zu to %zu the ranks\n%8.2f %% of the changes' length kept, least %.2f %% in %s\n",
               made->least_rank, made->most_rank, 100 * made->kept, 100 * made->worst_kept,
               made->worst);
    return CK_OK;
}

/* ---- Writing ---- */

static ck_status finish(ck_reader *lora, const ck_lora_output *o, const ck_lora_made *made,
                        ck_error *err) {
    if (made->layers == 0)
        return ck_fail(err, CK_INPUT, "%s: no layer has a change; nothing was written", o->path);
    CK_TRY(ck_view_finish(lora, err));
    ck_save_options options = {
        .dtype = CK_DTYPE_COUNT, .replace = o->force, .quiet = o->quiet || o->json};
    ck_save_result saved;
    CK_TRY(ck_save(lora, o->path, &options, &saved, err));
    return report(o, made, &saved, err);
}

ck_status ck_lora_output_write(
    const ck_lora_output *o, ck_lora_make_options *options, const ck_lora_layer *layers,
    size_t count, ck_status (*read)(void *context, size_t i, float *change, ck_error *err),
    void *context, const ck_architecture *architecture, const ck_reader *like, ck_error *err) {
    ck_progress progress;
    ck_lora_made made;
    ck_reader *lora;
    uint64_t elements = 0;
    for (size_t i = 0; i < count; i++) elements += layers[i].rows * layers[i].columns;
    options->progress = &progress;
    ck_progress_start(&progress, "taking apart", elements * sizeof(float), o->quiet || o->json);
    ck_status status =
        ck_lora_make(o->path, layers, count, read, context, options, &lora, &made, err);
    ck_progress_end(&progress);
    CK_TRY(status);
    status = add_metadata(lora, &options->cut, err);
    if (status == CK_OK) status = add_purpose(lora, architecture, like, err);
    if (status == CK_OK) status = finish(lora, o, &made, err);
    ck_reader_close(lora);
    return status;
}
