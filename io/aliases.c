/* Names in both layouts, from the tables of layout_int.h. */
#include "io/aliases.h"
#include "io/layout_int.h"

#include <string.h>

typedef struct listing {
    ck_status (*see)(void *context, const ck_alias *alias, ck_error *err);
    void *context;
    const ck_names *names;
    ck_error *err;
} listing;

static ck_status see_rows(const listing *l, ck_alias alias, uint64_t tensor_row, uint64_t name_row,
                          uint64_t rows) {
    alias.tensor_row = tensor_row;
    alias.name_row = name_row;
    alias.rows = rows;
    return l->see(l->context, &alias, l->err);
}

/* The fused matrix of the original and its parts: heights are in proportion to the shares. */
static ck_status see_split(const listing *l, const ck_name *parsed, ck_layout target,
                           ck_alias alias) {
    const ck_name_row *row = parsed->row;
    uint64_t heights[CK_MAX_PARTS], total = 0, begin = 0;
    size_t parts = 0;
    for (; parts < CK_MAX_PARTS && row->diffusers[parts]; parts++)
        total += heights[parts] = row->shares[0] ? row->shares[parts] : 1;
    bool whole = target == CK_LAYOUT_DIFFUSERS; /* the tensor is the fused one */
    uint64_t unit = alias.rows / (whole ? total : heights[parsed->part]);
    for (size_t k = 0; k < parts; begin += unit * heights[k++]) {
        char name[CK_MAX_NAME];
        if (!whole && k != parsed->part) continue;
        if (!ck_names_render(parsed, target, whole ? k : 0, "", false, name)) continue;
        alias.name = name;
        CK_TRY(see_rows(l, alias, whole ? begin : 0, whole ? 0 : begin, unit * heights[k]));
    }
    return CK_OK;
}

/* The tensor's name in one of the layouts. */
static ck_status see_layout(const listing *l, const ck_name *parsed, ck_layout target,
                            ck_alias alias) {
    char name[CK_MAX_NAME];
    alias.layout = target;
    bool here =
        (l->names->component->layout == CK_LAYOUT_DIFFUSERS) == (target == CK_LAYOUT_DIFFUSERS);
    uint64_t half = alias.rows / 2;
    if (!here && parsed->row->change == CK_CHANGE_TRANSPOSE) return CK_OK;
    if (!here && parsed->row->change == CK_CHANGE_SPLIT) return see_split(l, parsed, target, alias);
    if (!ck_names_render(parsed, target, here ? parsed->part : 0, "", false, name)) return CK_OK;
    alias.name = name;
    if (here || parsed->row->change != CK_CHANGE_SWAP) return see_rows(l, alias, 0, 0, alias.rows);
    CK_TRY(see_rows(l, alias, 0, half, half));
    return see_rows(l, alias, half, 0, half);
}

static ck_status see_tensor(const listing *l, const ck_tensor *t, ck_alias alias) {
    alias.tensor = t;
    alias.name = t->name + strlen(l->names->component->prefix);
    alias.rows = t->rank ? t->shape[0] : 1;
    CK_TRY(see_rows(l, alias, 0, 0, alias.rows));
    ck_name parsed;
    if (!ck_names_parse(l->names, t->name, &parsed)) return CK_OK;
    CK_TRY(see_layout(l, &parsed, CK_LAYOUT_ORIGINAL, alias));
    return see_layout(l, &parsed, CK_LAYOUT_DIFFUSERS, alias);
}

ck_status ck_aliases_of(const ck_reader *r,
                        ck_status (*see)(void *context, const ck_alias *alias, ck_error *err),
                        void *context, ck_error *err) {
    ck_anatomy a;
    ck_names names[CK_MAX_COMPONENTS];
    CK_TRY(ck_anatomy_of(r, &a, err));
    for (size_t i = 0; i < a.component_count; i++) ck_names_init(&names[i], r, &a.components[i]);
    ck_status status = CK_OK;
    for (size_t t = 0; t < ck_reader_count(r) && status == CK_OK; t++) {
        size_t i = a.component_of[t];
        const listing l = {see, context, &names[i], err};
        const ck_alias alias = {.architecture = a.architecture, .part = a.components[i].part};
        status = see_tensor(&l, ck_reader_tensor(r, t), alias);
    }
    ck_anatomy_free(&a);
    return status;
}
