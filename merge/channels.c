/* Which channels can change places: a table over the names that diffusers gives, see channels.h. */
#include "merge/channels.h"
#include "io/layout_int.h"
#include "io/os.h"
#include "io/view.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum kind {
    TIME_HIDDEN,
    LABEL_HIDDEN,
    TIME,
    INSIDE, /* of a residual block */
    STREAM,
    SELF_ATTENTION,
    CROSS_ATTENTION,
    FEED_FORWARD,
    CLIP_ATTENTION,
    CLIP_MLP,
    VAE_ATTENTION,
    KINDS
} kind;

/* How a group's channels hang together. */
typedef enum bond { FREE, NORMALISED, UNET_HEADS, CLIP_HEADS, ONE_HEAD } bond;

static const struct {
    const char *name;
    bond bond;
} kinds[KINDS] = {
    [TIME_HIDDEN] = {"time_embedding inside", FREE},
    [LABEL_HIDDEN] = {"add_embedding inside", FREE},
    [TIME] = {"time_embedding", FREE},
    [INSIDE] = {"inside", NORMALISED},
    [STREAM] = {"stream", FREE},
    [SELF_ATTENTION] = {"attn1 heads", UNET_HEADS},
    [CROSS_ATTENTION] = {"attn2 heads", UNET_HEADS},
    [FEED_FORWARD] = {"ff inside", FREE},
    [CLIP_ATTENTION] = {"heads", CLIP_HEADS},
    [CLIP_MLP] = {"mlp inside", FREE},
    [VAE_ATTENTION] = {"attention", ONE_HEAD},
};

typedef enum side { ROWS, COLUMNS } side;

/* An axis of the tensors whose names end in the pattern (all of the name where it does not begin
 * with a point); what comes before tells the groups of a kind apart. Of rows for one tensor and
 * axis the first counts. halves: the rows are two pieces in the same order. */
typedef struct row {
    ck_part part;
    const char *pattern;
    side side;
    kind kind;
    size_t head_part; /* 0: queries and keys, 1: values */
    bool halves;
} row;

#define BLOCK ".transformer_blocks.#"
#define CLIPS(pattern, side, kind, part)                                                           \
    {CK_PART_CLIP_L, pattern, side, kind, part, false},                                            \
        {CK_PART_CLIP_H, pattern, side, kind, part, false}, {                                      \
        CK_PART_CLIP_G, pattern, side, kind, part, false                                           \
    }
#define ATTENTION(name, kind)                                                                      \
    {CK_PART_UNET, name ".to_q.*", ROWS, kind, 0, false},                                          \
        {CK_PART_UNET, name ".to_k.*", ROWS, kind, 0, false},                                      \
        {CK_PART_UNET, name ".to_v.*", ROWS, kind, 1, false}, {                                    \
        CK_PART_UNET, name ".to_out.0.*", COLUMNS, kind, 1, false                                  \
    }

static const row rows[] = {
    {CK_PART_UNET, "time_embedding.linear_1.*", ROWS, TIME_HIDDEN, 0, false},
    {CK_PART_UNET, "time_embedding.linear_2.*", COLUMNS, TIME_HIDDEN, 0, false},
    {CK_PART_UNET, "add_embedding.linear_1.*", ROWS, LABEL_HIDDEN, 0, false},
    {CK_PART_UNET, "add_embedding.linear_2.*", COLUMNS, LABEL_HIDDEN, 0, false},
    {CK_PART_UNET, "time_embedding.linear_2.*", ROWS, TIME, 0, false},
    {CK_PART_UNET, "add_embedding.linear_2.*", ROWS, TIME, 0, false},
    {CK_PART_UNET, ".time_emb_proj.*", COLUMNS, TIME, 0, false},

    {CK_PART_UNET, ".proj_in.*", ROWS, STREAM, 0, false},
    {CK_PART_UNET, BLOCK ".norm1.*", ROWS, STREAM, 0, false},
    {CK_PART_UNET, BLOCK ".attn1.to_q.*", COLUMNS, STREAM, 0, false},
    {CK_PART_UNET, BLOCK ".attn1.to_k.*", COLUMNS, STREAM, 0, false},
    {CK_PART_UNET, BLOCK ".attn1.to_v.*", COLUMNS, STREAM, 0, false},
    {CK_PART_UNET, BLOCK ".attn1.to_out.0.*", ROWS, STREAM, 0, false},
    {CK_PART_UNET, BLOCK ".norm2.*", ROWS, STREAM, 0, false},
    {CK_PART_UNET, BLOCK ".attn2.to_q.*", COLUMNS, STREAM, 0, false},
    {CK_PART_UNET, BLOCK ".attn2.to_out.0.*", ROWS, STREAM, 0, false},
    {CK_PART_UNET, BLOCK ".norm3.*", ROWS, STREAM, 0, false},
    {CK_PART_UNET, BLOCK ".ff.net.0.proj.*", COLUMNS, STREAM, 0, false},
    {CK_PART_UNET, BLOCK ".ff.net.2.*", ROWS, STREAM, 0, false},
    {CK_PART_UNET, ".proj_out.*", COLUMNS, STREAM, 0, false},

    ATTENTION(".attn1", SELF_ATTENTION),
    ATTENTION(".attn2", CROSS_ATTENTION),
    {CK_PART_UNET, ".ff.net.0.proj.*", ROWS, FEED_FORWARD, 0, true}, /* values, then gates */
    {CK_PART_UNET, ".ff.net.2.*", COLUMNS, FEED_FORWARD, 0, false},

    {CK_PART_UNET, ".conv1.*", ROWS, INSIDE, 0, false},
    {CK_PART_UNET, ".time_emb_proj.*", ROWS, INSIDE, 0, false},
    {CK_PART_UNET, ".norm2.*", ROWS, INSIDE, 0, false},
    {CK_PART_UNET, ".conv2.*", COLUMNS, INSIDE, 0, false},

    {CK_PART_VAE, ".conv1.*", ROWS, INSIDE, 0, false},
    {CK_PART_VAE, ".norm2.*", ROWS, INSIDE, 0, false},
    {CK_PART_VAE, ".conv2.*", COLUMNS, INSIDE, 0, false},
    {CK_PART_VAE, ".attentions.0.to_q.*", ROWS, VAE_ATTENTION, 0, false},
    {CK_PART_VAE, ".attentions.0.to_k.*", ROWS, VAE_ATTENTION, 0, false},
    {CK_PART_VAE, ".attentions.0.to_v.*", ROWS, VAE_ATTENTION, 1, false},
    {CK_PART_VAE, ".attentions.0.to_out.0.*", COLUMNS, VAE_ATTENTION, 1, false},

    CLIPS(".self_attn.q_proj.*", ROWS, CLIP_ATTENTION, 0),
    CLIPS(".self_attn.k_proj.*", ROWS, CLIP_ATTENTION, 0),
    CLIPS(".self_attn.v_proj.*", ROWS, CLIP_ATTENTION, 1),
    CLIPS(".self_attn.out_proj.*", COLUMNS, CLIP_ATTENTION, 1),
    CLIPS(".mlp.fc1.*", ROWS, CLIP_MLP, 0),
    CLIPS(".mlp.fc2.*", COLUMNS, CLIP_MLP, 0),
};
enum { TABLE_ROWS = sizeof rows / sizeof *rows };

/* Architectures and their heads; a CLIP's have 64 channels everywhere. */
static const struct {
    ck_architecture_id id;
    ck_channel_sizes sizes;
} architectures[] = {
    {CK_ARCH_SD1, {.heads = 8, .clip_head = 64, .norm_groups = 32}},
    {CK_ARCH_SD2, {.unet_head = 64, .clip_head = 64, .norm_groups = 32}},
    {CK_ARCH_SDXL, {.unet_head = 64, .clip_head = 64, .norm_groups = 32}},
};

/* ---- Names ---- */

/* While a model is gone through. */
typedef struct search {
    ck_channels *channels;
    ck_channel_sizes sizes;
    ck_anatomy anatomy;
    ck_names names[CK_MAX_COMPONENTS]; /* of its components */
} search;

/* A tensor's names as diffusers has them: several where the original fuses matrices. */
typedef struct parts {
    const ck_component *component;
    char names[CK_CHANNEL_SEGMENTS][CK_MAX_NAME];
    size_t count;
} parts;

/* False for tensors of no known network. */
static bool find_parts(const search *s, size_t tensor, parts *p) {
    const ck_names *names = &s->names[s->anatomy.component_of[tensor]];
    const char *name = ck_reader_tensor(s->channels->model, tensor)->name;
    ck_name parsed;
    p->component = names->component;
    p->count = 0;
    if (!ck_names_parse(names, name, &parsed)) return false;
    bool fused =
        p->component->layout == CK_LAYOUT_ORIGINAL && parsed.row->change == CK_CHANGE_SPLIT;
    for (size_t i = 0; i < (fused ? CK_CHANNEL_SEGMENTS : 1); i++) {
        if (!ck_names_render(&parsed, CK_LAYOUT_DIFFUSERS, fused ? i : parsed.part, "", false,
                             p->names[i]))
            return false;
        p->count++;
    }
    return true;
}

/* Where the pattern begins in the name; NULL: it does not end in it. */
static const char *find_pattern(const char *pattern, const char *name) {
    if (*pattern != '.') return ck_pattern_match(pattern, name) ? name : NULL;
    for (const char *at = strchr(name, '.'); at; at = strchr(at + 1, '.'))
        if (ck_pattern_match(pattern, at)) return at;
    return NULL;
}

/* The row for an axis of a tensor; *scope is how much of the name its group is known by. */
static const row *find_row(ck_part part, const char *name, side wanted, size_t *scope) {
    for (size_t i = 0; i < TABLE_ROWS; i++) {
        const char *at = rows[i].part == part && rows[i].side == wanted
                             ? find_pattern(rows[i].pattern, name)
                             : NULL;
        if (!at) continue;
        *scope = rows[i].kind == TIME ? 0 : (size_t)(at - name);
        return &rows[i];
    }
    return NULL;
}

/* ---- Groups ---- */

static ck_status bad_tensor(const search *s, const ck_tensor *t, const char *what, ck_error *err) {
    char shape[128];
    return ck_fail(err, CK_INPUT, "%s: tensor '%s' of shape %s %s",
                   ck_reader_path(s->channels->model), t->name,
                   ck_tensor_shape_text(t, shape, sizeof shape), what);
}

static size_t count_blocks(const search *s, const row *r, size_t size) {
    switch (kinds[r->kind].bond) {
    case NORMALISED:
        return s->sizes.norm_groups;
    case UNET_HEADS:
        return s->sizes.heads ? s->sizes.heads : size / s->sizes.unet_head;
    case CLIP_HEADS:
        return size / s->sizes.clip_head;
    default:
        return 1;
    }
}

static ck_status add_group(search *s, const row *r, const char *name, const ck_tensor *t,
                           size_t size, ck_error *err) {
    ck_channels *c = s->channels;
    size_t blocks = count_blocks(s, r, size);
    if (size > UINT32_MAX || blocks == 0 || size % blocks)
        return bad_tensor(s, t, "does not go into groups or heads", err);
    ck_channel_group *groups =
        ck_grow(c->groups, c->group_count, &c->group_capacity, sizeof *groups);
    if (!groups) return ck_fail_memory(err, "channels");
    c->groups = groups;
    bond b = kinds[r->kind].bond;
    ck_channel_group g = {.name = ck_arena_strdup(&c->arena, name),
                          .size = size,
                          .blocks = blocks,
                          .parts = b == FREE || b == NORMALISED ? 1 : 2};
    for (size_t p = 0; p < g.parts; p++) {
        g.order[p] = ck_arena_alloc(&c->arena, size * sizeof *g.order[p]);
        if (!g.order[p]) return ck_fail_memory(err, "channels");
        for (size_t i = 0; i < size; i++) g.order[p][i] = (uint32_t)i;
    }
    if (!g.name) return ck_fail_memory(err, "channels");
    groups[c->group_count++] = g;
    return CK_OK;
}

/* The group that a row of the table puts an axis of `size` channels into, made when it is first
 * met. */
static ck_status find_group(search *s, const row *r, const parts *p, const char *part_name,
                            size_t scope, const ck_tensor *t, size_t size, ck_axis *found,
                            ck_error *err) {
    ck_channels *c = s->channels;
    char name[2 * CK_MAX_NAME];
    snprintf(name, sizeof name, "%s%.*s%s%s", p->component->prefix, (int)scope, part_name,
             scope ? " " : "", kinds[r->kind].name);
    size_t g = 0;
    while (g < c->group_count && strcmp(c->groups[g].name, name) != 0) g++;
    if (g == c->group_count) CK_TRY(add_group(s, r, name, t, size, err));
    if (c->groups[g].size != size)
        return bad_tensor(s, t, "does not fit the layers around it", err);
    *found = (ck_axis){g, r->head_part};
    return CK_OK;
}

/* Groups are made kind by kind, so that a kind comes after those that it faces. */
static ck_status add_groups(search *s, ck_error *err) {
    ck_axis ignored;
    for (kind k = 0; k < KINDS; k++)
        for (size_t i = 0; i < ck_reader_count(s->channels->model); i++) {
            const ck_tensor *t = ck_reader_tensor(s->channels->model, i);
            parts p;
            size_t scope;
            if (t->rank < 2 || !find_parts(s, i, &p)) continue;
            const row *r = find_row(p.component->part, p.names[0], ROWS, &scope);
            if (!r || r->kind != k) continue;
            size_t segments = p.count * (r->halves ? 2 : 1);
            if (t->shape[0] % segments || t->elements == 0)
                return bad_tensor(s, t, "does not fit the layers around it", err);
            CK_TRY(
                find_group(s, r, &p, p.names[0], scope, t, t->shape[0] / segments, &ignored, err));
        }
    return CK_OK;
}

/* The axes of a tensor; segments 0: none of them is permuted. */
static ck_status find_axes(search *s, const parts *p, ck_channel_tensor *out, ck_error *err) {
    const ck_tensor *t = out->tensor;
    size_t scope;
    bool any = false;
    for (size_t i = 0; i < p->count; i++) {
        const row *r = find_row(p->component->part, p->names[i], ROWS, &scope);
        size_t pieces = r && r->halves ? 2 : 1;
        ck_axis axis = {CK_NO_GROUP, 0};
        if (r && t->shape[0] % (p->count * pieces))
            return bad_tensor(s, t, "does not fit the layers around it", err);
        if (r)
            CK_TRY(find_group(s, r, p, p->names[i], scope, t, t->shape[0] / (p->count * pieces),
                              &axis, err));
        for (size_t k = 0; k < pieces; k++) out->rows[out->segments++] = axis;
        any |= r != NULL;
    }
    const row *r = t->rank > 1 ? find_row(p->component->part, p->names[0], COLUMNS, &scope) : NULL;
    out->columns = (ck_axis){CK_NO_GROUP, 0};
    if (r) CK_TRY(find_group(s, r, p, p->names[0], scope, t, t->shape[1], &out->columns, err));
    if (!any && !r) out->segments = 0;
    return CK_OK;
}

static ck_status add_tensor(search *s, size_t i, ck_error *err) {
    ck_channels *c = s->channels;
    ck_channel_tensor t = {.tensor = ck_reader_tensor(c->model, i)};
    parts p;
    if (!find_parts(s, i, &p) || t.tensor->rank == 0 || t.tensor->elements == 0) return CK_OK;
    CK_TRY(find_axes(s, &p, &t, err));
    if (!t.segments && p.component->part == CK_PART_UNET &&
        strstr(p.names[0], ".transformer_blocks."))
        return bad_tensor(s, t.tensor, "is not known: its channels cannot be permuted", err);
    if (!t.segments) return CK_OK;
    if (!ck_dtype_is_float(t.tensor->dtype)) return bad_tensor(s, t.tensor, "holds no floats", err);
    ck_channel_tensor *tensors =
        ck_grow(c->tensors, c->tensor_count, &c->tensor_capacity, sizeof *tensors);
    if (!tensors) return ck_fail_memory(err, "channels");
    c->tensors = tensors;
    tensors[c->tensor_count++] = t;
    return CK_OK;
}

/* ---- Opening ---- */

static ck_status choose_sizes(search *s, const ck_channel_sizes *sizes, ck_error *err) {
    const char *path = ck_reader_path(s->channels->model);
    const ck_architecture *a = s->anatomy.architecture;
    size_t n = sizeof architectures / sizeof *architectures, i = 0;
    while (i < n && architectures[i].id != a->id) i++;
    if (i == n)
        return ck_fail(err, CK_INPUT,
                       "%s is %s%s: which of its channels can be permuted is known for SD1, SD2 "
                       "and SDXL",
                       path, a->id == CK_ARCH_UNKNOWN ? "of an architecture that is " : "",
                       a->title);
    if (!sizes && s->anatomy.unusual)
        return ck_fail(err, CK_INPUT,
                       "%s has %s: how many heads it has is known for the published models only",
                       path, s->anatomy.unusual);
    s->sizes = sizes ? *sizes : architectures[i].sizes;
    return CK_OK;
}

static ck_status fill(search *s, const ck_channel_sizes *sizes, ck_error *err) {
    CK_TRY(choose_sizes(s, sizes, err));
    for (size_t i = 0; i < s->anatomy.component_count; i++)
        ck_names_init(&s->names[i], s->channels->model, &s->anatomy.components[i]);
    CK_TRY(add_groups(s, err));
    for (size_t i = 0; i < ck_reader_count(s->channels->model); i++) CK_TRY(add_tensor(s, i, err));
    return CK_OK;
}

ck_status ck_channels_open(const ck_reader *model, const ck_channel_sizes *sizes, ck_channels **out,
                           ck_error *err) {
    ck_channels *c = ck_alloc(sizeof *c);
    if (!c) return ck_fail_memory(err, "channels");
    c->model = model;
    search s = {.channels = c};
    ck_status status = ck_anatomy_of(model, &s.anatomy, err);
    if (status == CK_OK) {
        status = fill(&s, sizes, err);
        ck_anatomy_free(&s.anatomy);
    }
    if (status != CK_OK) {
        ck_channels_free(c);
        return status;
    }
    *out = c;
    return CK_OK;
}

void ck_channels_free(ck_channels *c) {
    if (!c) return;
    free(c->groups);
    free(c->tensors);
    ck_arena_free(&c->arena);
    free(c);
}

/* ---- The model in another order ---- */

void ck_channels_rows(const ck_channels *c, const ck_channel_tensor *t, uint32_t *order) {
    uint32_t height = (uint32_t)(t->tensor->shape[0] / t->segments);
    for (uint32_t s = 0; s < t->segments; s++) {
        const uint32_t *own = t->rows[s].group == CK_NO_GROUP
                                  ? NULL
                                  : c->groups[t->rows[s].group].order[t->rows[s].part];
        for (uint32_t i = 0; i < height; i++) *order++ = s * height + (own ? own[i] : i);
    }
}

static ck_status view_tensor(const ck_channels *c, const ck_channel_tensor *t, ck_reader *view,
                             ck_error *err) {
    const char *name = t->tensor->name;
    uint32_t *rows_order = NULL;
    if (t->segments > 1 || t->rows[0].group != CK_NO_GROUP) {
        rows_order = ck_alloc_array(t->tensor->shape[0], sizeof *rows_order);
        if (!rows_order) return ck_fail_memory(err, name);
        ck_channels_rows(c, t, rows_order);
    }
    ck_axis a = t->columns;
    ck_status status =
        ck_view_permute(view, name, c->model, t->tensor, rows_order,
                        a.group == CK_NO_GROUP ? NULL : c->groups[a.group].order[a.part], err);
    free(rows_order);
    return status;
}

ck_status ck_channels_view(const ck_channels *c, ck_reader **out, ck_error *err) {
    ck_reader *view;
    CK_TRY(ck_view_new(ck_reader_path(c->model), &view, err));
    ck_status status = ck_view_copy_metadata(view, c->model, err);
    size_t next = 0;
    for (size_t i = 0; i < ck_reader_count(c->model) && status == CK_OK; i++) {
        const ck_tensor *t = ck_reader_tensor(c->model, i);
        bool moves = next < c->tensor_count && c->tensors[next].tensor == t;
        status = moves ? view_tensor(c, &c->tensors[next++], view, err)
                       : ck_view_rename(view, t->name, c->model, t, err);
    }
    if (status == CK_OK) status = ck_view_finish(view, err);
    if (status != CK_OK) {
        ck_reader_close(view);
        return status;
    }
    *out = view;
    return CK_OK;
}
