/* Name components and numbers; see layers.h. */
#include "merge/layers.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { IN, MIDDLE, OUT, PARTS, MAX_INDEX = 9999 };

/* Where one tensor belongs. */
typedef struct place {
    size_t key;   /* length of the name's beginning that is the same in the whole row */
    size_t index; /* within its part */
    int part;     /* of a UNet; IN for everything else */
    size_t end;
} place;

static bool is(const char *word, size_t n, const char *text) {
    return strlen(text) == n && memcmp(word, text, n) == 0;
}

static bool ends(const char *word, size_t n, const char *text) {
    size_t length = strlen(text);
    return n >= length && memcmp(word + n - length, text, length) == 0;
}

/* The number behind this component, "7." of "double_blocks.7."; false where there is none. */
static bool number_behind(const char *name, size_t at, size_t *index, size_t *end) {
    if (name[at] != '.') return false;
    size_t digits = strspn(name + at + 1, "0123456789");
    if (digits == 0 || digits > 4 || name[at + 1 + digits] != '.') return false;
    *index = 0;
    for (size_t i = 0; i < digits; i++) *index = *index * 10 + (size_t)(name[at + 1 + i] - '0');
    *end = at + 1 + digits;
    return *index <= MAX_INDEX;
}

static bool find_place(const char *name, place *p) {
    for (size_t start = 0; name[start];) {
        size_t n = strcspn(name + start, ".");
        const char *word = name + start;
        *p = (place){.key = start, .end = start + n};
        if (is(word, n, "middle_block") || is(word, n, "mid_block")) {
            p->part = MIDDLE;
            return true;
        }
        if ((is(word, n, "layers") || ends(word, n, "block") || ends(word, n, "blocks")) &&
            number_behind(name, start + n, &p->index, &p->end)) {
            if (is(word, n, "output_blocks") || is(word, n, "up_blocks"))
                p->part = OUT;
            else if (!is(word, n, "input_blocks") && !is(word, n, "down_blocks"))
                p->key = start + n;
            return true;
        }
        start += n + (name[start + n] == '.');
    }
    return false;
}

/* A row: the beginning of its names and how many layers its parts have. */
typedef struct row {
    const char *name;
    size_t key;
    size_t counts[PARTS];
} row;

ck_layer *ck_layers_find(const char *const *names, size_t count, ck_arena *arena) {
    ck_layer *layers = ck_arena_alloc(arena, count * sizeof *layers);
    place *places = ck_arena_alloc(arena, count * sizeof *places);
    row *rows = ck_arena_alloc(arena, count * sizeof *rows);
    if (!layers || !places || !rows) return NULL;
    size_t row_count = 0;
    for (size_t i = 0; i < count; i++) {
        place *p = &places[i];
        layers[i].row = SIZE_MAX;
        if (!find_place(names[i], p)) continue;
        size_t r = 0;
        while (r < row_count &&
               (rows[r].key != p->key || memcmp(rows[r].name, names[i], p->key) != 0))
            r++;
        if (r == row_count) rows[row_count++] = (row){.name = names[i], .key = p->key};
        layers[i].row = r;
        if (rows[r].counts[p->part] <= p->index) rows[r].counts[p->part] = p->index + 1;
    }
    for (size_t i = 0; i < count; i++) {
        if (layers[i].row == SIZE_MAX) continue;
        const size_t *counts = rows[layers[i].row].counts;
        layers[i].index = places[i].index;
        for (int part = 0; part < places[i].part; part++) layers[i].index += counts[part];
        layers[i].length = counts[IN] + counts[MIDDLE] + counts[OUT];
        layers[i].end = places[i].end;
    }
    return layers;
}
