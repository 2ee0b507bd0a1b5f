/* How LoRA files call layers and their parts, and which tensors of a model that means.
 *
 * Tools that write '_' for '.' cannot be undone (to_q or to.q?), so no name is taken apart: every
 * tensor of the model is listed under all names that any tool gives it, and looked up. */
#include "io/aliases.h"
#include "io/os.h"
#include "merge/lora_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Tensors of a LoRA file ---- */

typedef struct ending {
    const char *text;
    ck_lora_role role;
    const char *layer; /* what the layer is called there today; NULL: nothing more */
} ending;

#define UP_AND_DOWN(text, layer)                                                                   \
    {text ".up.weight", CK_ROLE_UP, layer}, {                                                      \
        text ".down.weight", CK_ROLE_DOWN, layer                                                   \
    }

/* The first that fits counts. */
static const ending endings[] = {
    /* kohya's tools, LyCORIS */
    {".alpha", CK_ROLE_ALPHA, NULL},
    {".scalar", CK_ROLE_SCALAR, NULL},
    {".lora_up.weight", CK_ROLE_UP, NULL},
    {".lora_down.weight", CK_ROLE_DOWN, NULL},
    {".lora_mid.weight", CK_ROLE_MID, NULL},
    {".hada_w1_a", CK_ROLE_HADA_W1_A, NULL},
    {".hada_w1_b", CK_ROLE_HADA_W1_B, NULL},
    {".hada_t1", CK_ROLE_HADA_T1, NULL},
    {".hada_w2_a", CK_ROLE_HADA_W2_A, NULL},
    {".hada_w2_b", CK_ROLE_HADA_W2_B, NULL},
    {".hada_t2", CK_ROLE_HADA_T2, NULL},
    {".lokr_w1", CK_ROLE_LOKR_W1, NULL},
    {".lokr_w1_a", CK_ROLE_LOKR_W1_A, NULL},
    {".lokr_w1_b", CK_ROLE_LOKR_W1_B, NULL},
    {".lokr_w2", CK_ROLE_LOKR_W2, NULL},
    {".lokr_w2_a", CK_ROLE_LOKR_W2_A, NULL},
    {".lokr_w2_b", CK_ROLE_LOKR_W2_B, NULL},
    {".lokr_t2", CK_ROLE_LOKR_T2, NULL},
    {".diff", CK_ROLE_DIFF, NULL},
    {".w_norm", CK_ROLE_DIFF, NULL},
    {".diff_b", CK_ROLE_DIFF_BIAS, NULL},
    {".b_norm", CK_ROLE_DIFF_BIAS, NULL},
    {".dora_scale", CK_ROLE_DORA_SCALE, NULL},
    /* PEFT and diffusers */
    {".lora_B.weight", CK_ROLE_UP, NULL},
    {".lora_A.weight", CK_ROLE_DOWN, NULL},
    {".lora_B.bias", CK_ROLE_UP_BIAS, NULL},
    {".lora_magnitude_vector", CK_ROLE_MAGNITUDE, NULL},
    {".lora_magnitude_vector.weight", CK_ROLE_MAGNITUDE, NULL},
    /* diffusers' attention processors */
    UP_AND_DOWN(".processor.to_q_lora", ".to_q"),
    UP_AND_DOWN(".processor.to_k_lora", ".to_k"),
    UP_AND_DOWN(".processor.to_v_lora", ".to_v"),
    UP_AND_DOWN(".processor.to_out_lora", ".to_out.0"),
    UP_AND_DOWN(".self_attn.to_q_lora", ".self_attn.q_proj"),
    UP_AND_DOWN(".self_attn.to_k_lora", ".self_attn.k_proj"),
    UP_AND_DOWN(".self_attn.to_v_lora", ".self_attn.v_proj"),
    UP_AND_DOWN(".self_attn.to_out_lora", ".self_attn.out_proj"),
    /* XLabs: 1 is the image's side, 2 the text's. */
    UP_AND_DOWN(".processor.qkv_lora1", ".img_attn.qkv"),
    UP_AND_DOWN(".processor.qkv_lora2", ".txt_attn.qkv"),
    UP_AND_DOWN(".processor.proj_lora1", ".img_attn.proj"),
    UP_AND_DOWN(".processor.proj_lora2", ".txt_attn.proj"),
    UP_AND_DOWN(".processor.proj_lora", ".linear2"),
    /* Other files of diffusers */
    UP_AND_DOWN(".lora_linear_layer", NULL),
    UP_AND_DOWN(".lora", NULL),
    UP_AND_DOWN("_lora", NULL),
    /* Not read */
    {".oft_blocks", CK_ROLE_FOREIGN, NULL},
    {".oft_diag", CK_ROLE_FOREIGN, NULL},
    {".oft_R.weight", CK_ROLE_FOREIGN, NULL},
    {".boft_R", CK_ROLE_FOREIGN, NULL},
    {".a1.weight", CK_ROLE_FOREIGN, NULL},
    {".on_input", CK_ROLE_FOREIGN, NULL},
    {".ia3_l", CK_ROLE_FOREIGN, NULL},
    {".lokr_t1", CK_ROLE_FOREIGN, NULL},
    {".set_weight", CK_ROLE_FOREIGN, NULL},
    {".reshape_weight", CK_ROLE_FOREIGN, NULL},
    {".lora_embedding_A", CK_ROLE_FOREIGN, NULL},
    {".lora_embedding_B", CK_ROLE_FOREIGN, NULL},
    {NULL, CK_ROLE_COUNT, NULL},
};

static bool ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n >= m && memcmp(name + n - m, end, m) == 0;
}

/* PEFT writes an adapter's name into the middle, ".lora_A.default.weight": the tensor's name
 * without it to buf, which is returned; else the name as it is. */
static const char *without_adapter(const char *tensor, char buf[CK_LORA_MAX_NAME]) {
    static const char *const words[] = {".lora_A.", ".lora_B.", ".lora_magnitude_vector."};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const char *at = strstr(tensor, words[i]);
        if (!at) continue;
        const char *adapter = at + strlen(words[i]), *dot = strchr(adapter, '.');
        if (!dot || (strcmp(dot, ".weight") != 0 && strcmp(dot, ".bias") != 0)) continue;
        int n = snprintf(buf, CK_LORA_MAX_NAME, "%.*s%s", (int)(adapter - 1 - tensor), tensor, dot);
        if (n < CK_LORA_MAX_NAME) return buf;
    }
    return tensor;
}

ck_lora_role ck_lora__parse(const char *name, char layer[CK_LORA_MAX_NAME]) {
    char buf[CK_LORA_MAX_NAME];
    const char *tensor = without_adapter(name, buf);
    const ending *e = endings;
    while (e->text && !ends_with(tensor, e->text)) e++;
    if (!e->text) return CK_ROLE_COUNT;
    int n = (int)(strlen(tensor) - strlen(e->text));
    int length = snprintf(layer, CK_LORA_MAX_NAME, "%.*s%s", n, tensor, e->layer ? e->layer : "");
    return n == 0 || length >= CK_LORA_MAX_NAME ? CK_ROLE_COUNT : e->role;
}

/* ---- Places in a model ---- */

/* What LoRA files put before a layer's name within its component, '.' being written '_'. */
typedef struct naming {
    ck_part part;
    const char *prefixes[9];
} naming;

static const naming namings[] = {
    {CK_PART_UNET,
     {"", "lora_unet_", "unet_", "diffusion_model_", "base_model_model_", "lycoris_", NULL}},
    {CK_PART_MMDIT,
     {"", "lora_unet_", "lora_transformer_", "transformer_", "diffusion_model_",
      "base_model_model_", "lycoris_", NULL}},
    {CK_PART_FLUX,
     {"", "lora_unet_", "lora_transformer_", "transformer_", "diffusion_model_",
      "base_model_model_", "lycoris_", NULL}},
    {CK_PART_VAE, {"lora_vae_", "vae_", NULL}},
    {CK_PART_CLIP_L, {"lora_te_", "lora_te1_", "text_encoder_", NULL}},
    {CK_PART_CLIP_H, {"lora_te_", "lora_te1_", "text_encoder_", NULL}},
    {CK_PART_CLIP_G, {"lora_te2_", "text_encoder_2_", NULL}},
    {CK_PART_T5, {"lora_te3_", "text_encoder_3_", NULL}},
    {CK_PART_OTHER, {"base_model_model_", NULL}},
};

/* Where there is no third text encoder, T5 is the second. */
static const char *const t5_second[] = {"lora_te2_", "text_encoder_2_", NULL};

typedef struct listing {
    ck_lora_places *places;
    const ck_reader *model;
    bool has_clip_g;
} listing;

/* Lists prefix and name without its ".weight", '.' being written '_'. */
static ck_status add_place(const listing *l, const char *prefix, const char *name,
                           const ck_alias *alias, ck_error *err) {
    ck_lora_places *p = l->places;
    char text[2 * CK_LORA_MAX_NAME];
    int n = snprintf(text, sizeof text, "%s%s", prefix, name);
    if (n >= (int)sizeof text) return CK_OK; /* no LoRA calls it so either */
    if (ends_with(text, ".weight")) text[n - (int)strlen(".weight")] = 0;
    for (char *c = text; *c; c++)
        if (*c == '.') *c = '_';
    ck_lora_place *items = ck_grow(p->items, p->count, &p->capacity, sizeof *items);
    if (!items) return ck_fail_memory(err, ck_reader_path(l->model));
    p->items = items;
    const char *copy = ck_arena_strdup(&p->arena, text);
    if (!copy) return ck_fail_memory(err, ck_reader_path(l->model));
    items[p->count++] =
        (ck_lora_place){copy, alias->tensor, alias->name_row, alias->tensor_row, alias->rows};
    return CK_OK;
}

static ck_status add_places(const listing *l, const char *const *prefixes, const ck_alias *alias,
                            ck_error *err) {
    for (; *prefixes; prefixes++) CK_TRY(add_place(l, *prefixes, alias->name, alias, err));
    return CK_OK;
}

static ck_status see_all(void *context, const ck_alias *alias, ck_error *err) {
    const listing *l = context;
    const char *full = alias->tensor->name;
    if (alias->rows == 0) return CK_OK;
    if (ends_with(full, alias->name)) CK_TRY(add_place(l, "", full, alias, err));
    const naming *n = namings;
    while (n->part != CK_PART_OTHER && n->part != alias->part) n++;
    CK_TRY(add_places(l, n->prefixes, alias, err));
    return alias->part == CK_PART_T5 && !l->has_clip_g ? add_places(l, t5_second, alias, err)
                                                       : CK_OK;
}

static int compare(const void *a, const void *b) {
    const ck_lora_place *x = a, *y = b;
    int names = strcmp(x->name, y->name);
    if (names) return names;
    if (x->name_row != y->name_row) return x->name_row < y->name_row ? -1 : 1;
    int tensors = strcmp(x->tensor->name, y->tensor->name);
    if (tensors) return tensors;
    return (x->tensor_row > y->tensor_row) - (x->tensor_row < y->tensor_row);
}

static void drop_repeated(ck_lora_places *p) {
    size_t kept = 0;
    for (size_t i = 0; i < p->count; i++)
        if (kept == 0 || compare(&p->items[kept - 1], &p->items[i]) != 0)
            p->items[kept++] = p->items[i];
    p->count = kept;
}

static ck_status list_places(const ck_reader *model, ck_lora_places *places,
                             ck_status (*see)(void *context, const ck_alias *alias, ck_error *err),
                             ck_error *err) {
    ck_anatomy a;
    *places = (ck_lora_places){0};
    CK_TRY(ck_anatomy_of(model, &a, err));
    listing l = {places, model, ck_anatomy_find(&a, CK_PART_CLIP_G) != NULL};
    ck_anatomy_free(&a);
    ck_status status = ck_aliases_of(model, see, &l, err);
    if (status != CK_OK) {
        ck_lora__places_free(places);
        return status;
    }
    if (places->count) qsort(places->items, places->count, sizeof *places->items, compare);
    drop_repeated(places);
    return CK_OK;
}

ck_status ck_lora__places(const ck_reader *model, ck_lora_places *places, ck_error *err) {
    return list_places(model, places, see_all, err);
}

/* What kohya's tools put before the names of a part, and in which layout these are. */
static const char *kohya_prefix(const ck_alias *alias, ck_layout *layout) {
    ck_architecture_id id = alias->architecture->id;
    bool sd = id == CK_ARCH_SD1 || id == CK_ARCH_SD2 || id == CK_ARCH_SD2_UNCLIP;
    *layout = CK_LAYOUT_DIFFUSERS;
    switch (alias->part) {
    case CK_PART_UNET:
        if (!sd) *layout = CK_LAYOUT_ORIGINAL;
        return "lora_unet_";
    case CK_PART_MMDIT:
    case CK_PART_FLUX:
        *layout = CK_LAYOUT_ORIGINAL;
        return "lora_unet_";
    case CK_PART_CLIP_L:
        return sd || id == CK_ARCH_UNKNOWN ? "lora_te_" : "lora_te1_";
    case CK_PART_CLIP_H:
        return "lora_te_";
    case CK_PART_CLIP_G:
        return "lora_te2_";
    case CK_PART_T5:
        return "lora_te3_";
    case CK_PART_OTHER:
        *layout = CK_LAYOUT_UNKNOWN;
        return "";
    default:
        return NULL;
    }
}

/* Of text encoders only what the layers consist of: no program loads LoRAs of their tables. */
static bool is_table(const ck_alias *alias) {
    bool text = alias->part >= CK_PART_CLIP_L && alias->part <= CK_PART_T5;
    return text &&
           ((!strstr(alias->name, "encoder.layers.") && !strstr(alias->name, "encoder.block.")) ||
            strstr(alias->name, "relative_attention_bias"));
}

static ck_status see_kohya(void *context, const ck_alias *alias, ck_error *err) {
    ck_layout layout;
    const char *prefix = kohya_prefix(alias, &layout);
    bool parameter = ends_with(alias->name, ".weight") || ends_with(alias->name, ".bias");
    if (!prefix || alias->layout != layout || !parameter || alias->rows == 0 || is_table(alias))
        return CK_OK;
    return add_place(context, prefix, alias->name, alias, err);
}

ck_status ck_lora__kohya_places(const ck_reader *model, ck_lora_places *places, ck_error *err) {
    return list_places(model, places, see_kohya, err);
}

void ck_lora__places_free(ck_lora_places *places) {
    free(places->items);
    ck_arena_free(&places->arena);
    *places = (ck_lora_places){0};
}

const ck_lora_place *ck_lora__find(const ck_lora_places *places, const char *layer, bool bias,
                                   size_t *count) {
    char name[CK_LORA_MAX_NAME + sizeof "_bias"];
    snprintf(name, sizeof name, "%s%s", layer, bias ? "_bias" : "");
    for (char *c = name; *c; c++)
        if (*c == '.') *c = '_';
    size_t low = 0, high = places->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(places->items[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *count = 0;
    while (low + *count < places->count && strcmp(places->items[low + *count].name, name) == 0)
        ++*count;
    return *count ? &places->items[low] : NULL;
}
