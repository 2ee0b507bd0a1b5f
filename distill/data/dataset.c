/* Lists of images and captions; see dataset.h. */
#include "distill/data/dataset.h"
#include "distill/data/idx.h"
#include "io/arena.h"
#include "io/json.h"
#include "io/os.h"
#include "io/utf8.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_DEPTH = 16, MAX_CAPTION = 16 << 10, MAX_METADATA = 1 << 30 };

struct ck_dataset {
    char *folder; /* NULL: IDX */
    size_t channels;
    ck_sample *samples;
    uint64_t *file_sizes; /* of the samples of a folder */
    size_t count, capacity;
    ck_arena arena; /* names and captions */
    ck_idx images;
    size_t side; /* that images of IDX files have at least */
    size_t without_caption, ignored;
};

size_t ck_dataset_count(const ck_dataset *d) {
    return d->count;
}

void ck_dataset_limit(ck_dataset *d, size_t n) {
    while (d->count > n) d->without_caption -= d->samples[--d->count].caption[0] == 0;
}

static bool is_among(const char *caption, const char *const *captions, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(caption, captions[i]) == 0) return true;
    return false;
}

/* Sample i in the place of an earlier one. */
static void move_sample(ck_dataset *d, size_t to, size_t i) {
    d->samples[to] = d->samples[i];
    if (d->file_sizes) d->file_sizes[to] = d->file_sizes[i];
    if (!d->images.data) return;
    size_t pixels = d->images.shape[1] * d->images.shape[2];
    memmove(d->images.data + to * pixels, d->images.data + i * pixels, pixels);
}

ck_status ck_dataset_only(ck_dataset *d, const char *const *captions, size_t n, ck_error *err) {
    size_t kept = 0;
    for (size_t i = 0; i < d->count; i++) kept += is_among(d->samples[i].caption, captions, n);
    if (!kept) return ck_fail(err, CK_INPUT, "no image has one of the captions that are asked for");
    kept = 0;
    for (size_t i = 0; i < d->count; i++)
        if (is_among(d->samples[i].caption, captions, n)) move_sample(d, kept++, i);
    d->count = kept;
    d->without_caption = is_among("", captions, n) ? d->without_caption : 0;
    return CK_OK;
}

const ck_sample *ck_dataset_sample(const ck_dataset *d, size_t i) {
    return &d->samples[i];
}

size_t ck_dataset_without_caption(const ck_dataset *d) {
    return d->without_caption;
}

size_t ck_dataset_ignored(const ck_dataset *d) {
    return d->ignored;
}

void ck_dataset_close(ck_dataset *d) {
    if (!d) return;
    ck_idx_free(&d->images);
    ck_arena_free(&d->arena);
    free(d->file_sizes);
    free(d->samples);
    free(d->folder);
    free(d);
}

static ck_status new_dataset(const char *name, size_t channels, ck_dataset **d, ck_error *err) {
    if (channels != 1 && channels != 3)
        return ck_fail(err, CK_USAGE, "%s: images have 1 or 3 channels, not %zu", name, channels);
    *d = ck_alloc(sizeof **d);
    if (!*d) return ck_fail_memory(err, name);
    (*d)->channels = channels;
    return CK_OK;
}

/* name and caption belong to the arena. */
static ck_status add_sample(ck_dataset *d, const char *name, const char *caption, ck_error *err) {
    if (!name || !caption) return ck_fail_memory(err, "a dataset");
    ck_sample *moved = ck_grow(d->samples, d->count, &d->capacity, sizeof *moved);
    if (!moved) return ck_fail_memory(err, "a dataset");
    d->samples = moved;
    moved[d->count++] = (ck_sample){.name = name, .caption = caption};
    d->without_caption += caption[0] == 0;
    return CK_OK;
}

/* ---- Damaged images: all are counted, the first ones named ---- */

typedef struct damage {
    size_t count;
    char names[800];
    ck_status fatal; /* what is not the image's fault: memory, reading */
    ck_error err;
} damage;

static void note_damage(damage *all, ck_status status, const ck_error *err) {
    if (status == CK_OK || all->fatal != CK_OK) return;
    if (status != CK_INPUT) {
        all->fatal = status;
        all->err = *err;
        return;
    }
    all->count++;
    size_t used = strlen(all->names), left = sizeof all->names - used;
    if (used == 0 || strlen(err->message) + 2 < left)
        snprintf(all->names + used, left, "%s%.*s", used ? "; " : "", (int)left - 3, err->message);
}

static ck_status report_damage(const damage *all, const ck_dataset *d, ck_error *err) {
    if (all->fatal != CK_OK) *err = all->err;
    if (all->fatal != CK_OK) return all->fatal;
    if (all->count == 0) return CK_OK;
    return ck_fail(err, CK_INPUT, "%zu of %zu images cannot be read; repair or remove them: %s",
                   all->count, d->count, all->names);
}

/* ---- Folders ---- */

/* Text as one line: runs of white space become one space, none at the ends, and no mark of byte
 * order, which some editors put in front. */
static ck_status make_caption(ck_dataset *d, const char *path, const char *text, size_t n,
                              const char **caption, ck_error *err) {
    if (n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) text += 3, n -= 3;
    size_t valid = ck_utf8_check((const unsigned char *)text, strnlen(text, n));
    if (valid < n)
        return ck_fail(err, CK_INPUT, "%s: the caption is not text in UTF-8 (offset %zu)", path,
                       valid);
    char *line = ck_arena_strndup(&d->arena, text, n), *end = line;
    if (!line) return ck_fail_memory(err, path);
    for (size_t i = 0; i < n; i++)
        if (strchr(" \t\r\n\v\f", text[i])) {
            if (end > line && end[-1] != ' ') *end++ = ' ';
        } else {
            *end++ = text[i];
        }
    if (end > line && end[-1] == ' ') end--;
    *end = 0;
    *caption = line;
    return CK_OK;
}

/* The caption beside an image; "" if there is none. */
static ck_status read_caption(ck_dataset *d, const char *name, const char **caption,
                              ck_error *err) {
    int stem = (int)(strrchr(name, '.') - name);
    char *path = ck_sprintf("%s/%.*s.txt", d->folder, stem, name), *text;
    size_t n;
    if (!path) return ck_fail_memory(err, name);
    ck_status status = CK_OK;
    *caption = "";
    if (access(path, F_OK) == 0 || errno != ENOENT) {
        status = ck_read_file(path, MAX_CAPTION, &text, &n, err);
        if (status == CK_OK) {
            status = make_caption(d, path, text, n, caption, err);
            free(text);
        }
    }
    free(path);
    return status;
}

static bool has_ending(const char *name, const char *ending) {
    size_t n = strlen(name), m = strlen(ending);
    return n > m && strcasecmp(name + n - m, ending) == 0;
}

static ck_status list_folder(ck_dataset *d, const char *within, int depth, ck_error *err);

/* name: within the dataset's folder. */
static ck_status list_entry(ck_dataset *d, const char *name, int depth, ck_error *err) {
    char *path = ck_sprintf("%s/%s", d->folder, name);
    struct stat st;
    if (!path) return ck_fail_memory(err, name);
    ck_status status = stat(path, &st) != 0 ? ck_fail_errno(err, "%s", path) : CK_OK;
    free(path);
    CK_TRY(status);
    if (S_ISDIR(st.st_mode)) return list_folder(d, name, depth + 1, err);
    if (has_ending(name, ".png") || has_ending(name, ".jpg") || has_ending(name, ".jpeg")) {
        const char *caption;
        CK_TRY(read_caption(d, name, &caption, err));
        return add_sample(d, ck_arena_strdup(&d->arena, name), caption, err);
    }
    d->ignored += !has_ending(name, ".txt");
    return CK_OK;
}

/* within: "" or a path that ends with its last folder's name. */
static ck_status list_folder(ck_dataset *d, const char *within, int depth, ck_error *err) {
    char *path = ck_sprintf("%s/%s", d->folder, within);
    if (!path) return ck_fail_memory(err, within);
    DIR *folder = opendir(path);
    ck_status status = folder ? CK_OK : ck_fail_errno(err, "%s", path);
    if (folder && depth > MAX_DEPTH)
        status = ck_fail(err, CK_INPUT, "%s: more than %d folders deep: a link to itself?", path,
                         MAX_DEPTH);
    for (const struct dirent *e; status == CK_OK && (errno = 0, e = readdir(folder));) {
        if (e->d_name[0] == '.') continue;
        char *name = ck_sprintf("%s%s%s", within, within[0] ? "/" : "", e->d_name);
        status = name ? list_entry(d, name, depth, err) : ck_fail_memory(err, path);
        free(name);
    }
    if (status == CK_OK && errno) status = ck_fail_errno(err, "%s", path);
    if (folder) closedir(folder);
    free(path);
    return status;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const ck_sample *)a)->name, ((const ck_sample *)b)->name);
}

/* Whether a path leads out of the folder that it is in. */
static bool leaves(const char *name) {
    if (name[0] == '/') return true;
    for (const char *part = name; part; part = strchr(part, '/')) {
        part += *part == '/';
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || part[2] == 0)) return true;
    }
    return false;
}

static ck_status add_line(ck_dataset *d, const ck_json *doc, ck_error *err) {
    const char *name = NULL, *text = "", *caption;
    if (!cJSON_IsObject(doc->root)) return ck_json_fail(doc, doc->root, err, "must be an object");
    CK_TRY(ck_json_text(doc, doc->root, "file_name", &name, err));
    CK_TRY(ck_json_text(doc, doc->root, "text", &text, err));
    if (!name || !name[0]) return ck_json_fail(doc, doc->root, err, "no file_name");
    if (leaves(name)) return ck_json_fail(doc, doc->root, err, "file_name leaves the folder");
    if (strlen(text) > MAX_CAPTION)
        return ck_json_fail(doc, doc->root, err, "a caption of more than %d bytes", MAX_CAPTION);
    CK_TRY(make_caption(d, doc->name, text, strlen(text), &caption, err));
    return add_sample(d, ck_arena_strdup(&d->arena, name), caption, err);
}

static ck_status read_metadata(ck_dataset *d, const char *path, ck_error *err) {
    char *text;
    size_t n, number = 0;
    ck_status status = ck_read_file(path, MAX_METADATA, &text, &n, err);
    if (status != CK_OK) return status;
    for (char *at = text, *end = text + n; at < end && status == CK_OK;) {
        char *newline = memchr(at, '\n', (size_t)(end - at)), *stop = newline ? newline : end;
        number++;
        if (strspn(at, " \t\r") < (size_t)(stop - at)) {
            ck_json doc = {0};
            char *name = ck_sprintf("%s, line %zu", path, number);
            status = name ? ck_json_parse(name, at, (size_t)(stop - at), &doc, err)
                          : ck_fail_memory(err, path);
            if (status == CK_OK) status = add_line(d, &doc, err);
            ck_json_free(&doc);
            free(name);
        }
        at = stop + 1;
    }
    free(text);
    return status;
}

static ck_status list_samples(ck_dataset *d, ck_error *err) {
    char *path = ck_sprintf("%s/metadata.jsonl", d->folder);
    if (!path) return ck_fail_memory(err, d->folder);
    bool listed = access(path, F_OK) == 0;
    ck_status status = listed ? read_metadata(d, path, err) : list_folder(d, "", 0, err);
    free(path);
    CK_TRY(status);
    if (d->count == 0)
        return ck_fail(err, CK_INPUT, "%s: no images (PNG or JPEG) in it", d->folder);
    if (!listed) qsort(d->samples, d->count, sizeof *d->samples, by_name);
    return CK_OK;
}

static ck_status find_size(ck_dataset *d, size_t i, ck_error *err) {
    ck_sample *s = &d->samples[i];
    char *path = ck_sprintf("%s/%s", d->folder, s->name);
    struct stat st;
    if (!path) return ck_fail_memory(err, s->name);
    ck_status status = ck_image_size(path, &s->width, &s->height, err);
    if (status == CK_OK && stat(path, &st) == 0) d->file_sizes[i] = (uint64_t)st.st_size;
    /* One that metadata.jsonl names and nobody finds is the data's fault. */
    if (status == CK_IO && access(path, F_OK) != 0)
        status = ck_fail(err, CK_INPUT, "%s: no such file", path);
    free(path);
    return status;
}

static ck_status find_sizes(ck_dataset *d, ck_error *err) {
    d->file_sizes = ck_alloc_array(d->count, sizeof *d->file_sizes);
    if (!d->file_sizes) return ck_fail_memory(err, d->folder);
    damage all = {0};
    for (size_t i = 0; i < d->count; i++) {
        ck_error one;
        note_damage(&all, find_size(d, i, &one), &one);
    }
    return report_damage(&all, d, err);
}

ck_status ck_dataset_open_folder(const char *folder, size_t channels, ck_dataset **out,
                                 ck_error *err) {
    ck_dataset *d;
    CK_TRY(new_dataset(folder, channels, &d, err));
    d->folder = ck_strdup(folder);
    ck_status status = d->folder ? list_samples(d, err) : ck_fail_memory(err, folder);
    if (status == CK_OK) status = find_sizes(d, err);
    if (status == CK_OK)
        *out = d;
    else
        ck_dataset_close(d);
    return status;
}

/* ---- IDX ---- */

static ck_status check_idx(const ck_dataset *d, const char *images, ck_error *err) {
    const ck_idx *idx = &d->images;
    if (idx->rank != 3 || idx->count == 0)
        return ck_fail(err, CK_INPUT, "%s: not a list of images, which has rank 3", images);
    if (idx->shape[1] > CK_IMAGE_SIDE || idx->shape[2] > CK_IMAGE_SIDE || d->side > CK_IMAGE_SIDE)
        return ck_fail(err, CK_INPUT, "%s: images of %zux%zu pixels, for %zu, are too large",
                       images, idx->shape[2], idx->shape[1], d->side);
    return CK_OK;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static ck_status add_idx_samples(ck_dataset *d, const char *path, const ck_idx *labels,
                                 const char *const *names, size_t name_count, ck_error *err) {
    if (labels && (labels->rank != 1 || labels->count != d->images.shape[0]))
        return ck_fail(err, CK_INPUT, "%s: not one label for each of %zu images", path,
                       d->images.shape[0]);
    const char *captions[256] = {0}; /* one copy of each */
    for (size_t i = 0; i < d->images.shape[0]; i++) {
        uint8_t label = labels ? labels->data[i] : 0;
        if (labels && label >= name_count)
            return ck_fail(err, CK_INPUT, "%s: label %zu is %d, and there are %zu names", path, i,
                           label, name_count);
        if (!captions[label])
            captions[label] = labels ? ck_arena_strdup(&d->arena, names[label]) : "";
        char name[32];
        snprintf(name, sizeof name, "#%zu", i);
        CK_TRY(add_sample(d, ck_arena_strdup(&d->arena, name), captions[label], err));
        d->samples[i].width = larger(d->images.shape[2], d->side);
        d->samples[i].height = larger(d->images.shape[1], d->side);
    }
    return CK_OK;
}

ck_status ck_dataset_open_idx(const char *images, const char *labels, const char *const *names,
                              size_t name_count, size_t side, size_t channels, ck_dataset **out,
                              ck_error *err) {
    ck_dataset *d;
    ck_idx idx = {0};
    CK_TRY(new_dataset(images, channels, &d, err));
    d->side = side;
    ck_status status = ck_idx_read(images, &d->images, err);
    if (status == CK_OK) status = check_idx(d, images, err);
    if (status == CK_OK && labels) status = ck_idx_read(labels, &idx, err);
    if (status == CK_OK)
        status = add_idx_samples(d, labels, labels ? &idx : NULL, names, name_count, err);
    ck_idx_free(&idx);
    if (status == CK_OK)
        *out = d;
    else
        ck_dataset_close(d);
    return status;
}

static ck_status read_idx_image(const ck_dataset *d, size_t i, ck_image *image, ck_error *err) {
    size_t rows = d->images.shape[1], columns = d->images.shape[2];
    const uint8_t *pixel = d->images.data + i * rows * columns;
    CK_TRY(ck_image_make(larger(columns, d->side), larger(rows, d->side), d->channels, image, err));
    size_t left = (image->width - columns) / 2, top = (image->height - rows) / 2;
    for (size_t y = 0; y < rows; y++)
        for (size_t x = 0; x < columns; x++) {
            size_t at = (y + top) * image->width + x + left;
            memset(image->pixels + at * d->channels, *pixel++, d->channels);
        }
    return CK_OK;
}

/* ---- Reading ---- */

ck_status ck_dataset_read(const ck_dataset *d, size_t i, ck_image *image, ck_error *err) {
    if (!d->folder) return read_idx_image(d, i, image, err);
    const ck_sample *s = &d->samples[i];
    char *path = ck_sprintf("%s/%s", d->folder, s->name);
    if (!path) return ck_fail_memory(err, s->name);
    ck_status status = ck_image_read(path, d->channels, image, err);
    if (status == CK_OK && (image->width != s->width || image->height != s->height)) {
        status = ck_fail(err, CK_INPUT, "%s: changed: it is %zux%zu and was %zux%zu", path,
                         image->width, image->height, s->width, s->height);
        ck_image_free(image);
    }
    free(path);
    return status;
}

ck_status ck_dataset_check(const ck_dataset *d, bool (*progress)(void *context), void *context,
                           ck_error *err) {
    damage all = {0};
#pragma omp parallel for schedule(dynamic, 8)
    for (size_t i = 0; i < d->count; i++) {
        bool stop;
#pragma omp critical(ck_dataset_check)
        stop = all.fatal != CK_OK;
        if (stop) continue;
        ck_image image = {0};
        ck_error one;
        ck_status status = ck_dataset_read(d, i, &image, &one);
        ck_image_free(&image);
#pragma omp critical(ck_dataset_check)
        {
            note_damage(&all, status, &one);
            if (all.fatal == CK_OK && progress && !progress(context))
                all.fatal = ck_fail(&all.err, CK_CANCELLED, "stopped");
        }
    }
    return report_damage(&all, d, err);
}

ck_status ck_dataset_hash(const ck_dataset *d, char hex[CK_SHA256_HEX], ck_error *err) {
    ck_sha256 *sha = ck_sha256_new();
    if (!sha) return ck_fail_memory(err, "a dataset");
    for (size_t i = 0; i < d->count; i++) {
        const ck_sample *s = &d->samples[i];
        char sizes[80];
        snprintf(sizes, sizeof sizes, "%zux%zu %llu", s->width, s->height,
                 d->file_sizes ? (unsigned long long)d->file_sizes[i] : 0ull);
        ck_sha256_update(sha, s->name, strlen(s->name) + 1);
        ck_sha256_update(sha, s->caption, strlen(s->caption) + 1);
        ck_sha256_update(sha, sizes, strlen(sizes) + 1);
    }
    if (d->images.count) ck_sha256_update(sha, d->images.data, d->images.count);
    ck_sha256_hex(sha, hex);
    ck_sha256_free(sha);
    return CK_OK;
}
