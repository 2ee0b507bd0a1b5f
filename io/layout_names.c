/* Matching names against the tables of layout_int.h. */
#include "io/layout_int.h"

#include <stdio.h>
#include <string.h>

#define TEXT_MODEL "text_model."

/* A number as names have it: decimal, without leading zeros, small. NULL if there is none. */
static const char *parse_number(const char *s, unsigned *number) {
    if (*s == '0') {
        *number = 0;
        return s + 1;
    }
    unsigned value = 0;
    const char *start = s;
    for (; *s >= '0' && *s <= '9'; s++) {
        if (s - start == 6) return NULL;
        value = value * 10 + (unsigned)(*s - '0');
    }
    *number = value;
    return s > start ? s : NULL;
}

static bool match(const char *pattern, const char *name, unsigned numbers[CK_MAX_NUMBERS],
                  const char **rest) {
    for (size_t n = 0; *pattern; pattern++) {
        if (*pattern == '*') {
            *rest = name;
            return *name != 0;
        }
        if (*pattern == '#') {
            name = parse_number(name, &numbers[n++]);
            if (!name) return false;
        } else if (*pattern != *name++) {
            return false;
        }
    }
    *rest = "";
    return *name == 0;
}

bool ck_pattern_match(const char *pattern, const char *name) {
    unsigned numbers[CK_MAX_NUMBERS];
    const char *rest;
    return match(pattern, name, numbers, &rest);
}

/* The pattern as bare names have it. */
static const char *without_level(const char *pattern) {
    size_t n = sizeof TEXT_MODEL - 1;
    return strncmp(pattern, TEXT_MODEL, n) == 0 ? pattern + n : pattern;
}

/* Fills diffusers numbers from the original ones; false where the row is not for these. */
static bool to_diffusers(ck_numbering numbering, unsigned n, const unsigned *o, unsigned *d) {
    memcpy(d, o, CK_MAX_NUMBERS * sizeof *d);
    if (numbering == CK_NUMBERS_SAME) return true;
    if (n == 0) return false;
    switch (numbering) {
    case CK_NUMBERS_INPUT:
        if (o[0] == 0 || (o[0] - 1) % n == n - 1) return false;
        d[0] = (o[0] - 1) / n;
        d[1] = (o[0] - 1) % n;
        return true;
    case CK_NUMBERS_DOWN:
        d[0] = o[0] / n - 1;
        return o[0] >= n && o[0] % n == 0;
    case CK_NUMBERS_OUTPUT:
        d[0] = o[0] / n;
        d[1] = o[0] % n;
        return true;
    case CK_NUMBERS_UP:
        d[0] = o[0] / n;
        return o[0] % n == n - 1;
    case CK_NUMBERS_REVERSE:
        d[0] = n - 1 - o[0];
        return o[0] < n;
    case CK_NUMBERS_LAST:
        return o[0] == n - 1;
    default:
        return false;
    }
}

/* The inverse. */
static bool to_original(ck_numbering numbering, unsigned n, const unsigned *d, unsigned *o) {
    memcpy(o, d, CK_MAX_NUMBERS * sizeof *o);
    if (numbering == CK_NUMBERS_SAME) return true;
    if (n == 0) return false;
    switch (numbering) {
    case CK_NUMBERS_INPUT:
        o[0] = d[0] * n + d[1] + 1;
        return d[1] < n - 1;
    case CK_NUMBERS_DOWN:
        o[0] = d[0] * n + n;
        return true;
    case CK_NUMBERS_OUTPUT:
        o[0] = d[0] * n + d[1];
        return d[1] < n;
    case CK_NUMBERS_UP:
        o[0] = d[0] * n + n - 1;
        return true;
    case CK_NUMBERS_REVERSE:
        o[0] = n - 1 - d[0];
        return d[0] < n;
    case CK_NUMBERS_LAST:
        return d[0] == n - 1;
    default:
        return false;
    }
}

static bool append(char out[CK_MAX_NAME], size_t *at, const char *text) {
    size_t n = strlen(text);
    if (n >= CK_MAX_NAME - *at) return false;
    memcpy(out + *at, text, n + 1);
    *at += n;
    return true;
}

/* prefix + pattern with its numbers and rest filled in. */
static bool render(const char *pattern, const unsigned *numbers, const char *rest,
                   const char *prefix, char out[CK_MAX_NAME]) {
    size_t at = 0;
    bool fits = append(out, &at, prefix);
    for (; *pattern && fits; pattern++) {
        char text[16] = {*pattern};
        if (*pattern == '#') snprintf(text, sizeof text, "%u", *numbers++);
        fits = append(out, &at, *pattern == '*' ? rest : text);
    }
    return fits;
}

bool ck_names_render(const ck_name *parsed, ck_layout layout, size_t part, const char *prefix,
                     bool bare, char out[CK_MAX_NAME]) {
    bool diffusers = layout == CK_LAYOUT_DIFFUSERS;
    const char *pattern = diffusers ? parsed->row->diffusers[part] : parsed->row->original;
    return render(bare ? without_level(pattern) : pattern,
                  diffusers ? parsed->diffusers : parsed->original, parsed->rest, prefix, out);
}

/* Whether the component has the tensor that a row is conditional on. */
static bool condition_holds(const ck_names *n, const ck_name *parsed) {
    bool diffusers = n->component->layout == CK_LAYOUT_DIFFUSERS;
    const char *pattern = diffusers ? parsed->row->if_diffusers : parsed->row->if_original;
    char name[CK_MAX_NAME];
    return !pattern || (render(pattern, diffusers ? parsed->diffusers : parsed->original, "",
                               n->component->prefix, name) &&
                        ck_reader_find(n->reader, name));
}

static bool parse_as(const ck_names *n, const ck_name_row *row, size_t part, const char *inner,
                     ck_name *parsed) {
    *parsed = (ck_name){.row = row, .part = part};
    unsigned blocks = (unsigned)n->blocks;
    const char *diffusers = row->diffusers[part];
    if (n->component->layout == CK_LAYOUT_DIFFUSERS)
        return match(n->component->bare ? without_level(diffusers) : diffusers, inner,
                     parsed->diffusers, &parsed->rest) &&
               to_original(row->numbering, blocks, parsed->diffusers, parsed->original) &&
               condition_holds(n, parsed);
    return match(row->original, inner, parsed->original, &parsed->rest) &&
           to_diffusers(row->numbering, blocks, parsed->original, parsed->diffusers) &&
           condition_holds(n, parsed);
}

bool ck_names_parse(const ck_names *n, const char *name, ck_name *parsed) {
    size_t prefix = strlen(n->component->prefix);
    if (!n->naming || strncmp(name, n->component->prefix, prefix) != 0) return false;
    size_t parts = n->component->layout == CK_LAYOUT_DIFFUSERS ? CK_MAX_PARTS : 1;
    for (const ck_name_row *row = n->naming->rows; row->original; row++)
        for (size_t part = 0; part < parts && row->diffusers[part]; part++)
            if (parse_as(n, row, part, name + prefix, parsed)) return true;
    return false;
}

const ck_tensor *ck_names_find(const ck_names *n, const char *original) {
    char name[CK_MAX_NAME];
    const ck_component *c = n->component;
    if (c->layout != CK_LAYOUT_DIFFUSERS) {
        if (snprintf(name, sizeof name, "%s%s", c->prefix, original) >= CK_MAX_NAME) return NULL;
        return ck_reader_find(n->reader, name);
    }
    for (const ck_name_row *row = n->naming->rows; row->original; row++) {
        ck_name p = {.row = row};
        if (!match(row->original, original, p.original, &p.rest) ||
            !to_diffusers(row->numbering, (unsigned)n->blocks, p.original, p.diffusers) ||
            !ck_names_render(&p, CK_LAYOUT_DIFFUSERS, 0, c->prefix, c->bare, name))
            continue;
        const ck_tensor *t = ck_reader_find(n->reader, name);
        if (t) return t;
    }
    return NULL;
}

/* How many of the component's tensors match the pattern. */
static size_t count(const ck_names *n, const char *pattern) {
    size_t prefix = strlen(n->component->prefix), found = 0;
    for (size_t i = 0; i < ck_reader_count(n->reader); i++) {
        const char *name = ck_reader_tensor(n->reader, i)->name;
        found += strncmp(name, n->component->prefix, prefix) == 0 &&
                 ck_pattern_match(pattern, name + prefix);
    }
    return found;
}

void ck_names_init(ck_names *n, const ck_reader *reader, const ck_component *component) {
    *n = (ck_names){reader, component, ck_naming_of(component->part), 0};
    const ck_naming *naming = n->naming;
    if (!naming || !naming->count_original) return;
    if (component->layout == CK_LAYOUT_DIFFUSERS) {
        n->blocks = count(n, naming->count_diffusers);
    } else {
        n->blocks = count(n, naming->count_original);
        if (naming->divisor_original) n->blocks /= count(n, naming->divisor_original) + 1;
    }
}
