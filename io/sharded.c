/* Checkpoints in several files: an index (*.safetensors.index.json) says which tensor is in which.
 *
 *   {"metadata": {...}, "weight_map": {"tensor": "model-00001-of-00002.safetensors", ...}}
 *
 * The files must lie beside the index and hold exactly the tensors that it says; they may be of any
 * format that holds tensors itself.
 */
#include "io/json.h"
#include "io/os.h"
#include "io/view_int.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Every file stays open. */
enum { MAX_SHARDS = 512 };

typedef struct shard {
    const char *name; /* in the index */
    ck_reader *reader;
    size_t tensors; /* that the index has for it */
} shard;

typedef struct opening {
    ck_reader *r;
    ck_json *doc;
    shard *shards;
    size_t count, capacity;
    size_t *shard_of; /* for each tensor, by number in the view */
    ck_error *err;
} opening;

/* JSON text: an object, and none of the zero bytes that every binary format begins with. */
static bool probe(const char *path, const unsigned char *head, size_t n, bool is_directory) {
    (void)path;
    size_t i = 0;
    while (i < n && strchr(" \t\r\n", head[i]) && head[i]) i++;
    return !is_directory && i < n && head[i] == '{' && !memchr(head, 0, n);
}

static bool is_plain_name(const char *name) {
    return *name && !strchr(name, '/') && !strchr(name, '\\') && !strstr(name, "..") &&
           strcmp(name, ".") != 0;
}

/* A shard that is itself an index or a folder could lead in circles. */
static ck_status check_leaf(const char *path, ck_error *err) {
    struct stat st;
    unsigned char head[64];
    if (stat(path, &st) != 0) return ck_fail_errno(err, "%s", path);
    if (!S_ISREG(st.st_mode)) return ck_fail(err, CK_INPUT, "%s: not a file", path);
    size_t n = st.st_size < (off_t)sizeof head ? (size_t)st.st_size : sizeof head;
    int fd = ck_os.open(path, O_RDONLY, 0);
    if (fd < 0) return ck_fail_errno(err, "%s: open", path);
    ck_status status = ck_pread_all(fd, head, n, 0, path, err);
    close(fd);
    if (status == CK_OK && probe(path, head, n, false))
        status = ck_fail(err, CK_INPUT, "%s: an index where a file with tensors should be", path);
    return status;
}

static ck_status open_shard(opening *o, const cJSON *node, size_t *number) {
    const char *name = node->valuestring;
    if (!is_plain_name(name))
        return ck_json_fail(o->doc, node, o->err,
                            "the name of a file in the same folder expected, not '%s'", name);
    if (o->count == MAX_SHARDS)
        return ck_json_fail(o->doc, node, o->err, "more than %d files", MAX_SHARDS);
    shard *shards = ck_grow(o->shards, o->count, &o->capacity, sizeof *shards);
    if (!shards) return ck_fail_memory(o->err, o->r->path);
    o->shards = shards;
    const char *slash = strrchr(o->r->path, '/');
    char *path = ck_sprintf("%.*s%s", slash ? (int)(slash - o->r->path) + 1 : 0, o->r->path, name);
    if (!path) return ck_fail_memory(o->err, o->r->path);
    ck_reader *reader = NULL;
    ck_status status = check_leaf(path, o->err);
    if (status == CK_OK) status = ck_reader_open(path, &reader, o->err);
    free(path);
    if (status == CK_OK) status = ck_view_own(o->r, reader, o->err);
    if (status != CK_OK) return ck_context(o->err, "%s", o->r->path);
    shards[o->count] = (shard){name, reader, 0};
    *number = o->count++;
    return CK_OK;
}

/* The shard that an entry of the index names, opened when it is met first. */
static ck_status find_shard(opening *o, const cJSON *node, size_t *number) {
    if (!cJSON_IsString(node)) return ck_json_fail(o->doc, node, o->err, "a file name expected");
    /* From the last one backwards: an index goes through its files mostly in order. */
    for (size_t i = o->count; i-- > 0;)
        if (strcmp(o->shards[i].name, node->valuestring) == 0) {
            *number = i;
            return CK_OK;
        }
    return open_shard(o, node, number);
}

static ck_status add_tensors(opening *o, const cJSON *map) {
    for (const cJSON *node = map->child; node; node = node->next) {
        size_t i = 0;
        CK_TRY(find_shard(o, node, &i));
        shard *s = &o->shards[i];
        const ck_tensor *t = ck_reader_find(s->reader, node->string);
        if (!t) return ck_json_fail(o->doc, node, o->err, "file '%s' has no such tensor", s->name);
        o->shard_of[o->r->count] = i;
        s->tensors++;
        CK_TRY(ck_view_rename(o->r, t->name, s->reader, t, o->err));
    }
    return ck_view_finish(o->r, o->err);
}

static ck_status check_complete(opening *o) {
    for (size_t i = 0; i < o->count; i++) {
        const ck_reader *reader = o->shards[i].reader;
        if (o->shards[i].tensors == ck_reader_count(reader)) continue;
        for (size_t k = 0; k < ck_reader_count(reader); k++) {
            const char *name = ck_reader_tensor(reader, k)->name;
            const ck_tensor *t = ck_reader_find(o->r, name);
            if (!t || o->shard_of[t->offset] != i)
                return ck_fail(o->err, CK_INPUT, "%s: tensor '%s' of file '%s' is %s in the index",
                               o->r->path, name, o->shards[i].name, t ? "in another file" : "not");
        }
    }
    return CK_OK;
}

static ck_status open_sharded(ck_reader *r, ck_error *err) {
    CK_TRY(ck_view__attach(r, err));
    ck_json doc;
    CK_TRY(ck_json_load(r->path, &doc, err));
    opening o = {.r = r, .doc = &doc, .err = err};
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(doc.root, "weight_map");
    ck_status status = CK_OK;
    if (!cJSON_IsObject(map))
        status =
            ck_fail(err, CK_INPUT, "%s: no index of a checkpoint: it has no weight_map", r->path);
    else if (!(o.shard_of = ck_alloc_array((size_t)cJSON_GetArraySize(map), sizeof *o.shard_of)))
        status = ck_fail_memory(err, r->path);
    if (status == CK_OK) status = add_tensors(&o, map);
    if (status == CK_OK) status = check_complete(&o);
    if (status == CK_OK && o.count) status = ck_view_copy_metadata(r, o.shards[0].reader, err);
    free(o.shards);
    free(o.shard_of);
    ck_json_free(&doc);
    return status;
}

const ck_format ck_format_sharded = {
    .name = "sharded",
    .probe = probe,
    .open = open_sharded,
    .read = ck_view__read,
    .close = ck_view__close,
};
