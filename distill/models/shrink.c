/* Leaving blocks out of a UNet, see shrink.h. */
#include "distill/models/shrink.h"

#include <stdio.h>
#include <string.h>

typedef struct plan {
    int64_t layers, last; /* so many stay; the teacher's last on the way up */
    bool middle;
} plan;

/* down_blocks.1.resnets.0.conv1.weight: the layer's new number, or it is left out. */
static bool rename_layer(const plan *p, const char *name, bool up, char *out) {
    char kind[24];
    int block, layer, end = 0;
    const char *rest = strchr(name, '.');
    if (sscanf(rest, ".%d.%23[a-z].%d%n", &block, kind, &layer, &end) != 3 ||
        (strcmp(kind, "resnets") != 0 && strcmp(kind, "attentions") != 0)) {
        snprintf(out, 256, "%.255s", name);
        return true;
    }
    if (layer >= p->layers && !(up && layer == p->last)) return false;
    int64_t number = layer < p->layers ? layer : p->layers;
    snprintf(out, 256, "%s.%d.%s.%d%.160s", up ? "up_blocks" : "down_blocks", block, kind,
             (int)number, rest + end);
    return true;
}

static bool rename_weight(const void *context, const char *name, char *out) {
    const plan *p = context;
    if (strncmp(name, "mid_block.", 10) == 0 && !p->middle) return false;
    if (strncmp(name, "down_blocks.", 12) == 0) return rename_layer(p, name, false, out);
    if (strncmp(name, "up_blocks.", 10) == 0) return rename_layer(p, name, true, out);
    snprintf(out, 256, "%.255s", name);
    return true;
}

static bool is_even(const ck_unet_config *c) {
    for (int64_t l = 0; l < c->levels; l++) {
        const ck_unet_level *level = &c->level[l];
        if (level->layers != c->level[0].layers) return false;
        for (int64_t i = 1; i < level->layers; i++)
            if (level->depth[i] != level->depth[0]) return false;
        for (int64_t i = 1; i <= level->layers; i++)
            if (level->up_depth[i] != level->up_depth[0]) return false;
    }
    return true;
}

ck_status ck_shrink(const ck_params *teacher, ck_unet_config *c, int64_t layers, bool middle,
                    ck_params **student, ck_error *err) {
    int64_t has = c->level[0].layers;
    if (layers < 1 || layers > has)
        return ck_fail(err, CK_USAGE, "%lld layers, but the teacher has %lld", (long long)layers,
                       (long long)has);
    if (!is_even(c))
        return ck_fail(err, CK_USAGE, "the teacher's layers are not all alike: which are to go?");
    plan p = {.layers = layers, .last = has, .middle = middle};
    CK_TRY(ck_params_renamed(teacher, rename_weight, &p, student, err));
    for (int64_t l = 0; l < c->levels; l++) c->level[l].layers = layers;
    if (!middle) c->mid = 0;
    return CK_OK;
}
