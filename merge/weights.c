/* Block weights, see weights.h. */
#include "merge/weights.h"
#include "merge/presets.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- Text ---- */

/* "0,0.5,1" to numbers. */
static ck_status parse_numbers(const char *whole, const char *text, double *numbers, size_t *count,
                               ck_error *err) {
    for (*count = 0;; text++) {
        char *end;
        double number = strtod(text, &end);
        end += strspn(end, " \t\n");
        if (end == text || (*end && *end != ',') || !isfinite(number))
            return ck_fail(err, CK_USAGE,
                           "'%s': must be numbers separated by commas, linear:0,1 (or cosine, "
                           "smoothstep), or a preset: see `ckmerge presets`",
                           whole);
        if (*count == CK_MAX_WEIGHTS)
            return ck_fail(err, CK_USAGE, "'%s': more than %d numbers", whole, CK_MAX_WEIGHTS);
        numbers[(*count)++] = number;
        text = end;
        if (!*text || !text[1 + strspn(text + 1, " \t\n")]) return CK_OK; /* a last comma is fine */
    }
}

/* Whether the text begins with the name of a curve; *rest is then what follows the colon. */
static bool is_curve(const char *text, ck_curve *curve, const char **rest) {
    static const char *const names[] = {"linear", "cosine", "smoothstep"};
    size_t n = strcspn(text, ":");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == n && strncmp(names[i], text, n) == 0) {
            *curve = (ck_curve)(CK_CURVE_LINEAR + i);
            *rest = text[n] ? text + n + 1 : "0,1";
            return true;
        }
    return false;
}

static bool begins_number(const char *text) {
    char *end;
    strtod(text, &end);
    end += strspn(end, " \t\n");
    return end != text && (!*end || *end == ',');
}

bool ck_weights_is_text(const char *text) {
    return !begins_number(text) || strchr(text, ',');
}

ck_status ck_weights_parse(const char *text, ck_arena *arena, ck_weights **out, ck_error *err) {
    ck_curve curve = CK_CURVE_LIST;
    const char *rest = text;
    if (!is_curve(text, &curve, &rest) && !begins_number(text))
        return ck_preset_load(text, NULL, arena, out, err);
    double numbers[CK_MAX_WEIGHTS];
    size_t count;
    CK_TRY(parse_numbers(text, rest, numbers, &count, err));
    ck_weights *w = ck_arena_alloc(arena, sizeof *w);
    double *copy = ck_arena_alloc(arena, count * sizeof *copy);
    if (!w || !copy) return ck_fail_memory(err, text);
    memcpy(copy, numbers, count * sizeof *copy);
    *w = (ck_weights){.curve = curve, .numbers = copy, .count = count};
    *out = w;
    return CK_OK;
}

/* ---- Values ---- */

static double between(ck_curve curve, double a, double b, double u) {
    const double pi = 3.14159265358979323846;
    double v = curve == CK_CURVE_COSINE       ? (1 - cos(pi * u)) / 2
               : curve == CK_CURVE_SMOOTHSTEP ? u * u * (3 - 2 * u)
                                              : u;
    return u == 1 ? b : a + (b - a) * v;
}

static void spread(const ck_weights *w, size_t depth, double *values) {
    for (size_t i = 0; i < depth; i++) {
        double place = depth > 1 ? (double)i / (double)(depth - 1) : 1;
        double t = place * (double)(w->count - 1);
        size_t k = w->count > 1 && t < (double)(w->count - 1) ? (size_t)t : w->count - 1;
        double next = k + 1 < w->count ? w->numbers[k + 1] : w->numbers[k];
        values[i] = between(w->curve, w->numbers[k], next, t - (double)k);
    }
}

/* Lists that name only some of the blocks of a model with so many. */
static const struct {
    size_t depth, count;
    const char *blocks[17];
} short_lists[] = {
    {25,
     17,
     {"BASE", "IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00", "OUT03", "OUT04", "OUT05",
      "OUT06", "OUT07", "OUT08", "OUT09", "OUT10", "OUT11"}},
    {19,
     12,
     {"BASE", "IN04", "IN05", "IN07", "IN08", "M00", "OUT00", "OUT01", "OUT02", "OUT03", "OUT04",
      "OUT05"}},
};

static void set_base(const ck_blocks *b, double value, double *values) {
    for (size_t i = b->depth; i < b->count; i++) values[i] = value;
}

static bool bind_short(const ck_weights *w, const ck_blocks *b, double *values) {
    for (size_t l = 0; l < sizeof short_lists / sizeof *short_lists; l++) {
        if (short_lists[l].depth != b->depth || short_lists[l].count != w->count) continue;
        for (size_t i = 0; i < b->depth; i++) values[i] = 0;
        set_base(b, w->numbers[0], values);
        for (size_t n = 1; n < w->count; n++)
            for (size_t i = 0; i < b->depth; i++)
                if (strcmp(b->blocks[i].name, short_lists[l].blocks[n]) == 0)
                    values[i] = w->numbers[n];
        return true;
    }
    return false;
}

static bool is_unet(const ck_blocks *b) {
    return b->depth && b->blocks[0].part == CK_PART_UNET;
}

/* The blocks of SD1's list, without BASE, that SDXL has. */
enum { SD1_DEPTH = 25, SDXL_DEPTH = 19, SDXL_INPUTS = 9, SD1_MIDDLE = 12 };

static bool bind_list(const ck_weights *w, bool lora, const ck_blocks *b, double *values) {
    const double *numbers = w->numbers;
    size_t count = w->count;
    bool narrow = is_unet(b) && b->depth == SDXL_DEPTH;
    bool flux = b->depth && b->blocks[0].part == CK_PART_FLUX;
    if (is_unet(b) && lora && bind_short(w, b, values)) return true;
    if (flux && count == b->depth + 2) {
        for (size_t i = b->depth; i < b->count; i++)
            values[i] = numbers[b->blocks[i].part == CK_PART_T5];
        numbers += 2, count -= 2;
    } else if (count == b->depth + 1 || (narrow && count == SD1_DEPTH + 1)) {
        set_base(b, *numbers, values);
        numbers++, count--;
    }
    if (narrow && count == SD1_DEPTH)
        for (size_t i = 0; i < SDXL_DEPTH; i++)
            values[i] = numbers[i < SDXL_INPUTS ? i : SD1_MIDDLE + i - SDXL_INPUTS];
    else if (count == b->depth)
        memcpy(values, numbers, count * sizeof *values);
    else
        return false;
    return true;
}

static ck_status wrong_count(const ck_weights *w, const ck_blocks *b, ck_error *err) {
    char blocks[CK_MAX_BLOCKS_TEXT];
    if (b->depth == 0)
        return ck_fail(err, CK_USAGE,
                       "%s has no blocks that are known, so no block weights can be given for it",
                       b->path);
    return ck_fail(err, CK_USAGE,
                   "%zu block weights given, but %s has %zu blocks: %s; give %zu numbers, or %zu "
                   "with that of BASE (all other tensors) first",
                   w->count, b->path, b->depth, ck_blocks_text(b, blocks), b->depth, b->depth + 1);
}

ck_status ck_weights_bind(const ck_weights *w, double base, bool lora, const ck_blocks *b,
                          double values[CK_MAX_BLOCKS], ck_error *err) {
    for (size_t i = 0; i < b->count; i++) values[i] = w->has_base ? w->base : base;
    if (w->count &&
        (b->depth == 0 || (w->curve == CK_CURVE_LIST && !bind_list(w, lora, b, values))))
        return wrong_count(w, b, err);
    if (w->count && w->curve != CK_CURVE_LIST) spread(w, b->depth, values);
    for (size_t o = w->override_count; o-- > 0;) { /* backwards: the first match wins */
        bool chosen[CK_MAX_BLOCKS];
        CK_TRY(ck_blocks_select(b, w->overrides[o].blocks, chosen, err));
        for (size_t i = 0; i < b->count; i++)
            if (chosen[i]) values[i] = w->overrides[o].value;
    }
    return CK_OK;
}

bool ck_weights_scale(ck_weights *w, double factor, ck_arena *arena) {
    double *numbers = ck_arena_alloc(arena, w->count * sizeof *numbers);
    ck_weights_override *overrides = ck_arena_alloc(arena, w->override_count * sizeof *overrides);
    if (!numbers || !overrides) return false;
    for (size_t i = 0; i < w->count; i++) numbers[i] = w->numbers[i] * factor;
    for (size_t i = 0; i < w->override_count; i++)
        overrides[i] =
            (ck_weights_override){w->overrides[i].blocks, w->overrides[i].value * factor};
    w->numbers = numbers;
    w->overrides = overrides;
    w->base *= factor;
    return true;
}
