/* Views in another layout, see layout.h. The names come from the tables of layout_int.h. */
#include "io/layout.h"
#include "io/layout_int.h"
#include "io/view.h"
#include "kernels/kernels.h"

#include <stdio.h>
#include <string.h>

/* Where a component goes. */
typedef struct goal {
    ck_layout layout;
    const char *prefix;
    bool bare;
} goal;

typedef struct conversion {
    const ck_reader *source;
    ck_anatomy anatomy;
    ck_names names[CK_MAX_COMPONENTS];
    goal goals[CK_MAX_COMPONENTS];
    ck_layout target; /* of the file */
    ck_unused unused;
    bool keep_unknown;
    ck_reader *view;
    ck_layout_report report;
    ck_error *err;
} conversion;

static const char *path(const conversion *c) {
    return ck_reader_path(c->source);
}

/* ---- Goals ---- */

static const ck_seat *seat_of(const ck_anatomy *a, ck_part part) {
    for (const ck_seat *s = ck_seats; s->architecture != CK_ARCH_UNKNOWN; s++)
        if (s->architecture == a->architecture->id && s->part == part) return s;
    return NULL;
}

static bool stands_alone(const ck_anatomy *a, const ck_component *c) {
    return !*c->prefix && (a->component_count == 1 || !ck_part_is_model(a->components[1].part));
}

static ck_status set_goal(conversion *c, size_t i, const ck_anatomy *seats) {
    const ck_component *component = &c->anatomy.components[i];
    const ck_seat *seat = seat_of(seats, component->part);
    /* Everybody uses the transformers names for CLIP-L. */
    bool same_names = seat ? seat->same_names : component->part == CK_PART_CLIP_L;
    goal *g = &c->goals[i];
    g->layout = same_names ? CK_LAYOUT_DIFFUSERS : c->target;
    if (component->layout == CK_LAYOUT_UNKNOWN) g->layout = CK_LAYOUT_UNKNOWN;
    if (stands_alone(&c->anatomy, component))
        g->prefix = "";
    else if (seat)
        g->prefix = c->target == CK_LAYOUT_DIFFUSERS ? seat->diffusers : seat->original;
    else if (c->keep_unknown)
        *g = (goal){component->layout, component->prefix, component->bare};
    else
        return ck_fail(c->err, CK_INPUT,
                       "%s: no place is known for a %s in the %s layout of a model of architecture "
                       "'%s'",
                       path(c), ck_part_title(component->part), ck_layout_name(c->target),
                       seats->architecture->name);
    return CK_OK;
}

/* ---- Tensors ---- */

static ck_status name_too_long(const conversion *c, const ck_tensor *t) {
    return ck_fail(c->err, CK_INPUT, "%s: the name of tensor '%.64s...' is too long", path(c),
                   t->name);
}

static void count_dropped(conversion *c, const ck_tensor *t) {
    if (!c->report.dropped++) c->report.first_dropped = t->name;
}

/* Whether programs of the other layout do not load the tensor. */
static bool is_unused(const ck_names *n, const ck_name *parsed) {
    bool diffusers = n->component->layout == CK_LAYOUT_DIFFUSERS;
    const char *const *pattern =
        diffusers ? n->naming->unused_diffusers : n->naming->unused_original;
    char name[CK_MAX_NAME];
    if (!pattern || !ck_names_render(parsed, n->component->layout, parsed->part, "", false, name))
        return false;
    while (*pattern && !ck_pattern_match(*pattern, name)) pattern++;
    return *pattern;
}

/* Cuts and swaps are defined for plain weights; the parts of a quantised one (packed values,
 * scales) would silently lose their meaning. */
static ck_status check_plain(const conversion *c, const ck_tensor *t, const ck_name *parsed) {
    const char *rest = parsed->rest;
    bool plain = !*rest || strcmp(rest, "weight") == 0 || strcmp(rest, "bias") == 0;
    if (plain && ck_dtype_is_float(t->dtype) && t->rank > 0) return CK_OK;
    return ck_fail(
        c->err, CK_INPUT,
        "%s: tensor '%s' (%s) belongs to a quantised weight, which cannot be cut for the other "
        "layout: convert the model to a plain type first",
        path(c), t->name, ck_dtype_name(t->dtype));
}

static uint64_t row_bytes(const ck_tensor *t) {
    return t->shape[0] ? t->nbytes / t->shape[0] : 0;
}

static unsigned share_of(const ck_name_row *row, size_t part) {
    return row->shares[0] ? row->shares[part] : 1;
}

static size_t part_count(const ck_name_row *row) {
    size_t n = 0;
    while (n < CK_MAX_PARTS && row->diffusers[n]) n++;
    return n;
}

static ck_status split(conversion *c, const goal *g, const ck_tensor *t, const ck_name *parsed) {
    size_t parts = part_count(parsed->row);
    uint64_t shares = 0, begin = 0, shape[8];
    for (size_t k = 0; k < parts; k++) shares += share_of(parsed->row, k);
    if (t->shape[0] % shares || t->rank > 8)
        return ck_fail(c->err, CK_INPUT,
                       "%s: tensor '%s' holds %zu fused parts, but its %llu rows are no "
                       "multiple of %llu",
                       path(c), t->name, parts, (unsigned long long)t->shape[0],
                       (unsigned long long)shares);
    memcpy(shape, t->shape, t->rank * sizeof *shape);
    for (size_t k = 0; k < parts; k++) {
        char name[CK_MAX_NAME];
        if (!ck_names_render(parsed, CK_LAYOUT_DIFFUSERS, k, g->prefix, g->bare, name))
            return name_too_long(c, t);
        shape[0] = t->shape[0] / shares * share_of(parsed->row, k);
        ck_piece piece = {c->source, t, begin, shape[0] * row_bytes(t)};
        CK_TRY(ck_view_concat(c->view, name, t->dtype, t->rank, shape, &piece, 1, c->err));
        begin += piece.nbytes;
    }
    return CK_OK;
}

/* Whether b can stand under a in one matrix, their heights in the given proportion. */
static bool stacks(const ck_tensor *a, unsigned share_a, const ck_tensor *b, unsigned share_b) {
    return a->dtype == b->dtype && a->rank == b->rank && a->rank > 0 &&
           memcmp(a->shape + 1, b->shape + 1, (a->rank - 1) * sizeof *a->shape) == 0 &&
           a->shape[0] % share_a == 0 && b->shape[0] % share_b == 0 &&
           a->shape[0] / share_a == b->shape[0] / share_b;
}

/* Joins the parts when it is the first one's turn. */
static ck_status join(conversion *c, const ck_names *n, const goal *g, const ck_tensor *t,
                      const ck_name *parsed) {
    const ck_component *from = n->component;
    size_t parts = part_count(parsed->row);
    ck_piece pieces[CK_MAX_PARTS];
    uint64_t shape[8] = {0};
    char name[CK_MAX_NAME];
    for (size_t k = 0; k < parts; k++) {
        if (!ck_names_render(parsed, CK_LAYOUT_DIFFUSERS, k, from->prefix, from->bare, name))
            return name_too_long(c, t);
        const ck_tensor *part = ck_reader_find(c->source, name);
        if (!part)
            return ck_fail(c->err, CK_INPUT,
                           "%s: tensor '%s' is missing, which belongs together with '%s'", path(c),
                           name, t->name);
        pieces[k] = (ck_piece){c->source, part, 0, part->nbytes};
        const ck_tensor *first = pieces[0].tensor;
        if (part->rank > 8 ||
            !stacks(first, share_of(parsed->row, 0), part, share_of(parsed->row, k)))
            return ck_fail(c->err, CK_INPUT,
                           "%s: tensors '%s' and '%s' do not fit together: other shapes "
                           "or types",
                           path(c), first->name, part->name);
        shape[0] += part->shape[0];
    }
    if (parsed->part != 0) return CK_OK;
    memcpy(shape + 1, t->shape + 1, (t->rank - 1) * sizeof *shape);
    if (!ck_names_render(parsed, CK_LAYOUT_ORIGINAL, 0, g->prefix, g->bare, name))
        return name_too_long(c, t);
    return ck_view_concat(c->view, name, t->dtype, t->rank, shape, pieces, parts, c->err);
}

static ck_status swap_halves(conversion *c, const char *name, const ck_tensor *t) {
    if (t->shape[0] % 2)
        return ck_fail(c->err, CK_INPUT,
                       "%s: tensor '%s' has an odd number of rows, but consists of two "
                       "halves",
                       path(c), t->name);
    uint64_t half = t->nbytes / 2;
    ck_piece pieces[] = {{c->source, t, half, half}, {c->source, t, 0, half}};
    return ck_view_concat(c->view, name, t->dtype, t->rank, t->shape, pieces, 2, c->err);
}

/* [o,i,1,1] to [o,i] and back; a bias stays. */
static ck_status reshape_matrix(conversion *c, const char *name, const ck_tensor *t, ck_layout to) {
    uint64_t shape[4] = {1, 1, 1, 1};
    if (t->rank < 2) return ck_view_rename(c->view, name, c->source, t, c->err);
    for (size_t i = 0; i < t->rank; i++) {
        if (i >= 2 && t->shape[i] != 1)
            return ck_fail(c->err, CK_INPUT, "%s: tensor '%s' is not a 1x1 convolution", path(c),
                           t->name);
        if (i < 2) shape[i] = t->shape[i];
    }
    return ck_view_concat(c->view, name, t->dtype, to == CK_LAYOUT_DIFFUSERS ? 2 : 4, shape,
                          &(ck_piece){c->source, t, 0, t->nbytes}, 1, c->err);
}

static ck_status convert_tensor(conversion *c, const ck_names *n, const goal *g, const ck_tensor *t,
                                const ck_name *parsed) {
    char name[CK_MAX_NAME];
    bool change = g->layout != n->component->layout;
    if (change && c->unused == CK_UNUSED_DROP && is_unused(n, parsed)) {
        count_dropped(c, t);
        return CK_OK;
    }
    if (!ck_names_render(parsed, g->layout, change ? 0 : parsed->part, g->prefix, g->bare, name))
        return name_too_long(c, t);
    if (!change || parsed->row->change == CK_CHANGE_NONE) {
        c->report.kept++;
        return ck_view_rename(c->view, name, c->source, t, c->err);
    }
    c->report.converted++;
    CK_TRY(check_plain(c, t, parsed));
    switch (parsed->row->change) {
    case CK_CHANGE_SPLIT:
        return g->layout == CK_LAYOUT_DIFFUSERS ? split(c, g, t, parsed) : join(c, n, g, t, parsed);
    case CK_CHANGE_SWAP:
        return swap_halves(c, name, t);
    case CK_CHANGE_MATRIX:
        return reshape_matrix(c, name, t, g->layout);
    default:
        return ck_view_transpose(c->view, name, c->source, t, c->err);
    }
}

/* Tensors that belong to no model. */
static ck_status carry_tensor(conversion *c, const ck_tensor *t, ck_part part) {
    bool same = c->target == c->anatomy.layout;
    if (part == CK_PART_OTHER && !same && !c->keep_unknown)
        return ck_fail(c->err, CK_INPUT,
                       "%s: tensor '%s' is not known: it has no name in the %s layout (cktool "
                       "join takes a model's parts without such)",
                       path(c), t->name, ck_layout_name(c->target));
    if (part != CK_PART_MARKER && part != CK_PART_OTHER && !same && c->unused == CK_UNUSED_DROP) {
        count_dropped(c, t);
        return CK_OK;
    }
    c->report.kept++;
    return ck_view_rename(c->view, t->name, c->source, t, c->err);
}

/* OpenCLIP's logit_scale, which diffusers' text encoders lack. */
static ck_status make_logit_scale(conversion *c, size_t i) {
    const ck_component *component = &c->anatomy.components[i];
    bool clip = component->part == CK_PART_CLIP_L || component->part == CK_PART_CLIP_H ||
                component->part == CK_PART_CLIP_G;
    if (!clip || component->layout != CK_LAYOUT_DIFFUSERS ||
        c->goals[i].layout != CK_LAYOUT_ORIGINAL || c->unused == CK_UNUSED_KEEP ||
        ck_names_find(&c->names[i], "logit_scale"))
        return CK_OK;
    const ck_tensor *like = ck_names_find(&c->names[i], "token_embedding.weight");
    ck_dtype dtype = like && ck_dtype_is_float(like->dtype) ? like->dtype : CK_F32;
    const float ln_100 = 4.6051702f;
    char data[8], name[CK_MAX_NAME];
    size_t tables;
    ck_kernels_all(&tables)[0]->encode[dtype](data, &ln_100, 1);
    snprintf(name, sizeof name, "%slogit_scale", c->goals[i].prefix);
    c->report.made++;
    return ck_view_constant(c->view, name, dtype, 0, NULL, data, c->err);
}

/* ---- Whole files ---- */

/* Fills the view by the goals. */
static ck_status fill(conversion *c) {
    const ck_anatomy *a = &c->anatomy;
    for (size_t i = 0; i < a->component_count; i++)
        ck_names_init(&c->names[i], c->source, &a->components[i]);
    for (size_t t = 0; t < ck_reader_count(c->source); t++) {
        const ck_tensor *tensor = ck_reader_tensor(c->source, t);
        size_t i = a->component_of[t];
        ck_name parsed;
        if (!ck_part_is_model(a->components[i].part) ||
            !ck_names_parse(&c->names[i], tensor->name, &parsed))
            CK_TRY(carry_tensor(c, tensor, a->components[i].part));
        else
            CK_TRY(convert_tensor(c, &c->names[i], &c->goals[i], tensor, &parsed));
    }
    for (size_t i = 0; i < a->component_count; i++) CK_TRY(make_logit_scale(c, i));
    CK_TRY(ck_view_copy_metadata(c->view, c->source, c->err));
    return ck_view_finish(c->view, c->err);
}

/* Runs a conversion whose anatomy and goals are set; releases the anatomy. */
static ck_status finish(conversion *c, ck_status status, ck_reader **view,
                        ck_layout_report *report) {
    if (status == CK_OK) status = ck_view_new(path(c), &c->view, c->err);
    if (status == CK_OK) status = fill(c);
    ck_anatomy_free(&c->anatomy);
    if (status != CK_OK) {
        ck_reader_close(c->view);
        return status;
    }
    if (report) *report = c->report;
    *view = c->view;
    return CK_OK;
}

ck_status ck_layout_convert(const ck_reader *source, ck_layout target, ck_unused unused,
                            ck_reader **view, ck_layout_report *report, ck_error *err) {
    conversion c = {.source = source, .target = target, .unused = unused, .err = err};
    CK_TRY(ck_anatomy_of(source, &c.anatomy, err));
    ck_status status = CK_OK;
    for (size_t i = 0; i < c.anatomy.component_count && status == CK_OK; i++)
        if (ck_part_is_model(c.anatomy.components[i].part)) status = set_goal(&c, i, &c.anatomy);
    return finish(&c, status, view, report);
}

ck_status ck_layout_like(const ck_reader *source, const ck_reader *model, ck_reader **view,
                         ck_layout_report *report, ck_error *err) {
    conversion c = {.source = source, .unused = CK_UNUSED_KEEP, .keep_unknown = true, .err = err};
    ck_anatomy like;
    CK_TRY(ck_anatomy_of(model, &like, err));
    ck_status status = ck_anatomy_of(source, &c.anatomy, err);
    c.target = like.layout != CK_LAYOUT_UNKNOWN ? like.layout : c.anatomy.layout;
    for (size_t i = 0; status == CK_OK && i < c.anatomy.component_count; i++) {
        ck_part part = c.anatomy.components[i].part;
        const ck_component *there = ck_anatomy_find(&like, part);
        if (there)
            c.goals[i] = (goal){there->layout, there->prefix, there->bare};
        else if (ck_part_is_model(part))
            status = set_goal(&c, i, &like);
    }
    ck_anatomy_free(&like);
    return finish(&c, status, view, report);
}
