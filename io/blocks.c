/* Block maps, see blocks.h: a table of name patterns, in the original layout. */
#include "io/blocks.h"
#include "io/layout_int.h"
#include "io/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Which block of a kind the tensors of a row belong to. */
typedef enum place { FIRST, NUMBERED, LAST } place;

/* '#' in a kind's name stands for the block's number, two digits. */
typedef struct row {
    ck_part part;
    const char *pattern, *kind;
    place place;
} row;

/* In the order of the blocks. */
static const row rows[] = {
    {CK_PART_UNET, "input_blocks.#.*", "IN#", NUMBERED},
    {CK_PART_UNET, "time_embed.*", "IN#", FIRST},
    {CK_PART_UNET, "label_emb.*", "IN#", FIRST},
    {CK_PART_UNET, "middle_block.*", "M#", FIRST},
    {CK_PART_UNET, "output_blocks.#.*", "OUT#", NUMBERED},
    {CK_PART_UNET, "out.*", "OUT#", LAST},
    {CK_PART_MMDIT, "pos_embed", "IN", FIRST},
    {CK_PART_MMDIT, "x_embedder.*", "IN", FIRST},
    {CK_PART_MMDIT, "context_embedder.*", "IN", FIRST},
    {CK_PART_MMDIT, "y_embedder.*", "IN", FIRST},
    {CK_PART_MMDIT, "t_embedder.*", "IN", FIRST},
    {CK_PART_MMDIT, "joint_blocks.#.*", "J#", NUMBERED},
    {CK_PART_MMDIT, "final_layer.*", "OUT", FIRST},
    {CK_PART_FLUX, "img_in.*", "IN", FIRST},
    {CK_PART_FLUX, "time_in.*", "IN", FIRST},
    {CK_PART_FLUX, "guidance_in.*", "IN", FIRST},
    {CK_PART_FLUX, "vector_in.*", "IN", FIRST},
    {CK_PART_FLUX, "txt_in.*", "IN", FIRST},
    {CK_PART_FLUX, "double_blocks.#.*", "D#", NUMBERED},
    {CK_PART_FLUX, "single_blocks.#.*", "S#", NUMBERED},
    {CK_PART_FLUX, "final_layer.*", "OUT", FIRST},
};
enum { ROWS = sizeof rows / sizeof *rows, MOST_OF_A_KIND = 60, MAX_KINDS = 4 };

static bool is_denoiser(ck_part part) {
    return part == CK_PART_UNET || part == CK_PART_MMDIT || part == CK_PART_FLUX;
}

static bool is_text_encoder(ck_part part) {
    return part == CK_PART_CLIP_L || part == CK_PART_CLIP_H || part == CK_PART_CLIP_G ||
           part == CK_PART_T5;
}

/* ---- The map ---- */

/* The blocks of one kind while they are being counted. */
typedef struct kind {
    const char *name;
    size_t count, first; /* first: number of its first block */
} kind;

/* Where a tensor of the denoiser belongs. */
typedef struct seat {
    const row *row; /* NULL: to no block */
    size_t number;
} seat;

static seat find_seat(ck_part part, const char *original) {
    for (size_t i = 0; i < ROWS; i++) {
        const row *r = &rows[i];
        if (r->part != part || !ck_pattern_match(r->pattern, original)) continue;
        size_t number =
            r->place == NUMBERED ? strtoul(original + strcspn(r->pattern, "#"), NULL, 10) : 0;
        if (number < MOST_OF_A_KIND) return (seat){r, number};
    }
    return (seat){NULL, 0};
}

static kind *kind_of(kind *kinds, const char *name) {
    while (kinds->name && strcmp(kinds->name, name) != 0) kinds++;
    return kinds;
}

static size_t add_block(ck_blocks *b, const char *name, size_t family, ck_part part) {
    ck_block *block = &b->blocks[b->count];
    *block = (ck_block){.family = family, .part = part};
    snprintf(block->name, sizeof block->name, "%s", name);
    return b->count++;
}

/* The denoiser's blocks, each kind with as many as the highest number asks for. */
static void add_depth(ck_blocks *b, ck_part part, const seat *seats, size_t tensors,
                      kind kinds[MAX_KINDS + 1]) {
    for (size_t i = 0; i < ROWS; i++) {
        if (rows[i].part != part) continue;
        kind *k = kind_of(kinds, rows[i].kind);
        k->name = rows[i].kind;
        if (k->count == 0) k->count = 1;
    }
    for (size_t t = 0; t < tensors; t++) {
        if (!seats[t].row) continue;
        kind *k = kind_of(kinds, seats[t].row->kind);
        if (seats[t].number >= k->count) k->count = seats[t].number + 1;
    }
    for (kind *k = kinds; k->name; k++) {
        k->first = b->count;
        for (size_t n = 0; n < k->count; n++) {
            char name[16];
            size_t letters = strcspn(k->name, "#");
            snprintf(name, sizeof name, "%.*s", (int)letters, k->name);
            if (k->name[letters]) snprintf(name + letters, sizeof name - letters, "%02zu", n);
            add_block(b, name, (size_t)(k - kinds), part);
        }
    }
    b->depth = b->count;
}

/* The block of a component, made when its first tensor is met. */
static size_t component_block(ck_blocks *b, ck_part part) {
    for (size_t i = b->depth; i < b->count; i++)
        if (b->blocks[i].part == part) return i;
    return add_block(b, ck_part_name(part), MAX_KINDS + part, part);
}

/* The tensor's name in the original layout, without its component's prefix. */
static const char *original_name(ck_blocks *b, const ck_names *n, const char *name) {
    ck_name parsed;
    char text[CK_MAX_NAME];
    const ck_component *c = n->component;
    if (c->layout == CK_LAYOUT_DIFFUSERS && ck_names_parse(n, name, &parsed) &&
        ck_names_render(&parsed, CK_LAYOUT_ORIGINAL, 0, "", false, text))
        return ck_arena_strdup(&b->arena, text);
    size_t prefix = strlen(c->prefix);
    return strncmp(name, c->prefix, prefix) == 0 ? name + prefix : name;
}

static ck_status map_tensors(const ck_reader *r, const ck_anatomy *a, ck_blocks *b, seat *seats,
                             ck_error *err) {
    size_t count = ck_reader_count(r);
    ck_names names[CK_MAX_COMPONENTS];
    ck_part denoiser = CK_PART_OTHER;
    for (size_t i = 0; i < a->component_count; i++) {
        ck_names_init(&names[i], r, &a->components[i]);
        if (denoiser == CK_PART_OTHER && is_denoiser(a->components[i].part))
            denoiser = a->components[i].part;
    }
    for (size_t t = 0; t < count; t++) {
        const ck_names *n = &names[a->component_of[t]];
        if (!(b->original[t] = original_name(b, n, ck_reader_tensor(r, t)->name)))
            return ck_fail_memory(err, b->path);
        if (n->component->part == denoiser) seats[t] = find_seat(denoiser, b->original[t]);
    }
    kind kinds[MAX_KINDS + 1] = {{0}};
    add_depth(b, denoiser, seats, count, kinds);
    for (size_t t = 0; t < count; t++) {
        size_t block;
        if (seats[t].row) {
            const kind *k = kind_of(kinds, seats[t].row->kind);
            block = k->first + (seats[t].row->place == LAST ? k->count - 1 : seats[t].number);
        } else {
            block = component_block(b, a->components[a->component_of[t]].part);
        }
        b->block_of[t] = (unsigned char)block;
        b->blocks[block].tensors++;
        b->blocks[block].elements += ck_reader_tensor(r, t)->elements;
    }
    return CK_OK;
}

ck_status ck_blocks_of(const ck_reader *r, ck_blocks *b, ck_error *err) {
    ck_anatomy a;
    *b = (ck_blocks){.path = ck_reader_path(r)};
    CK_TRY(ck_anatomy_of(r, &a, err));
    b->architecture = a.architecture->id;
    size_t count = ck_reader_count(r);
    b->block_of = ck_arena_alloc(&b->arena, count);
    b->original = ck_arena_alloc(&b->arena, count * sizeof *b->original);
    seat *seats = ck_alloc_array(count, sizeof *seats);
    ck_status status = b->block_of && b->original && seats ? map_tensors(r, &a, b, seats, err)
                                                           : ck_fail_memory(err, b->path);
    free(seats);
    ck_anatomy_free(&a);
    if (status != CK_OK) ck_blocks_free(b);
    return status;
}

void ck_blocks_free(ck_blocks *b) {
    ck_arena_free(&b->arena);
    *b = (ck_blocks){0};
}

/* ---- Choosing ---- */

static bool is_word(const char *text, size_t n, const char *word) {
    return strlen(word) == n && strncasecmp(text, word, n) == 0;
}

/* The denoiser's block of that name, or b->depth. */
static size_t find_block(const ck_blocks *b, const char *text, size_t n) {
    if (is_word(text, n, "MID")) text = "M00", n = 3;
    size_t i = 0;
    while (i < b->depth && !is_word(text, n, b->blocks[i].name)) i++;
    return i;
}

/* "IN04", "IN00-IN05", "OUT". */
static bool choose_depth(const ck_blocks *b, const char *text, size_t n, bool *chosen) {
    const char *dash = memchr(text, '-', n);
    size_t first = find_block(b, text, dash ? (size_t)(dash - text) : n), last = first;
    if (dash) last = find_block(b, dash + 1, n - (size_t)(dash - text) - 1);
    if (first < b->depth && last < b->depth) {
        if (first > last) return false;
        for (size_t i = first; i <= last; i++) chosen[i] = true;
        return true;
    }
    bool found = false;
    for (size_t i = 0; i < b->depth && !dash; i++) {
        const char *name = b->blocks[i].name;
        bool fits = strcspn(name, "0123456789") == n && strncasecmp(name, text, n) == 0;
        chosen[i] |= fits;
        found |= fits;
    }
    return found;
}

/* "vae", "clip", "BASE", ... */
static bool choose_component(const ck_blocks *b, const char *text, size_t n, bool *chosen) {
    bool base = is_word(text, n, "BASE"), clip = is_word(text, n, "clip");
    bool denoiser = is_word(text, n, "unet") || is_word(text, n, "transformer");
    bool known = base || clip || denoiser;
    for (int part = 0; part < CK_PART_COUNT; part++)
        known |= is_word(text, n, ck_part_name((ck_part)part));
    for (size_t i = 0; i < b->count; i++) {
        ck_part part = b->blocks[i].part;
        chosen[i] |= (base && i >= b->depth) || (clip && is_text_encoder(part)) ||
                     (denoiser && is_denoiser(part)) || is_word(text, n, ck_part_name(part));
    }
    return known;
}

ck_status ck_blocks_select(const ck_blocks *b, const char *text, bool chosen[CK_MAX_BLOCKS],
                           ck_error *err) {
    static const char separators[] = " ,\t\n";
    memset(chosen, 0, CK_MAX_BLOCKS * sizeof *chosen);
    const char *word = text + strspn(text, separators);
    bool inverted = is_word(word, strcspn(word, separators), "NOT"), any = false;
    if (inverted) word += strlen("NOT");
    for (;;) {
        word += strspn(word, separators);
        size_t n = strcspn(word, separators);
        if (n == 0) break;
        any = true;
        if (!choose_depth(b, word, n, chosen) && !choose_component(b, word, n, chosen)) {
            char blocks[CK_MAX_BLOCKS_TEXT];
            return ck_fail(err, CK_USAGE,
                           "there is no block '%.*s' in %s; its blocks are %s; others are BASE, "
                           "unet, clip, vae",
                           (int)n, word, b->path, ck_blocks_text(b, blocks));
        }
        word += n;
    }
    for (size_t i = 0; i < b->count; i++) chosen[i] = any ? chosen[i] != inverted : true;
    return CK_OK;
}

const char *ck_blocks_text(const ck_blocks *b, char buf[CK_MAX_BLOCKS_TEXT]) {
    size_t used = 0;
    snprintf(buf, CK_MAX_BLOCKS_TEXT, "none");
    for (size_t i = 0, next; i < b->depth; i = next) {
        for (next = i + 1; next < b->depth && b->blocks[next].family == b->blocks[i].family;)
            next++;
        used += (size_t)snprintf(buf + used, CK_MAX_BLOCKS_TEXT - used, "%s%s%s%s", i ? ", " : "",
                                 b->blocks[i].name, next > i + 1 ? "-" : "",
                                 next > i + 1 ? b->blocks[next - 1].name : "");
    }
    return buf;
}
