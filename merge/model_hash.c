/* Files by their bytes, everything else by its tensors; see model_hash.h. */
#include "merge/model_hash.h"
#include "io/os.h"
#include "io/reader.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { BLOCK = 1 << 20 };

static bool in_several_files(const ck_reader *r) {
    return strcmp(ck_reader_format(r), "diffusers") == 0 ||
           strcmp(ck_reader_format(r), "sharded") == 0;
}

static ck_status hash_tensor(ck_sha256 *hash, const ck_reader *r, const ck_tensor *t, char *block,
                             bool (*progress)(void *context, uint64_t bytes), void *context,
                             ck_error *err) {
    char head[256], shape[200];
    int n = snprintf(head, sizeof head, "%s%s", ck_dtype_name(t->dtype),
                     ck_tensor_shape_text(t, shape, sizeof shape));
    ck_sha256_update(hash, t->name, strlen(t->name) + 1);
    ck_sha256_update(hash, head, (size_t)n + 1);
    for (uint64_t at = 0; at < t->nbytes;) {
        size_t size = t->nbytes - at < BLOCK ? (size_t)(t->nbytes - at) : BLOCK;
        CK_TRY(ck_reader_read(r, t, at, block, size, err));
        ck_sha256_update(hash, block, size);
        at += size;
        if (progress && !progress(context, size)) return ck_fail(err, CK_CANCELLED, "stopped");
    }
    return CK_OK;
}

static ck_status hash_content(const ck_reader *r, char hex[CK_SHA256_HEX],
                              bool (*progress)(void *context, uint64_t bytes), void *context,
                              ck_error *err) {
    ck_sha256 *hash = ck_sha256_new();
    char *block = ck_alloc(BLOCK);
    ck_status status = hash && block ? CK_OK : ck_fail_memory(err, ck_reader_path(r));
    for (size_t i = 0; i < ck_reader_count(r) && status == CK_OK; i++)
        status = hash_tensor(hash, r, ck_reader_tensor(r, i), block, progress, context, err);
    if (status == CK_OK) ck_sha256_hex(hash, hex);
    ck_sha256_free(hash);
    free(block);
    return status;
}

ck_status ck_model_hash(const char *path, char hex[CK_SHA256_HEX],
                        bool (*progress)(void *context, uint64_t bytes), void *context,
                        ck_error *err) {
    ck_reader *r;
    CK_TRY(ck_reader_open(path, &r, err));
    ck_status status = in_several_files(r) ? hash_content(r, hex, progress, context, err)
                                           : ck_hash_sha256(path, hex, progress, context, err);
    ck_reader_close(r);
    return status;
}

static ck_status stamp_file(const char *path, ck_sha256 *hash, ck_error *err) {
    struct stat st;
    if (stat(path, &st) != 0) return ck_fail_errno(err, "%s: cannot be opened", path);
    char text[160];
    int n = snprintf(text, sizeof text, "%jd %jd.%09ld\n", (intmax_t)st.st_size,
                     (intmax_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    ck_sha256_update(hash, text, (size_t)n);
    return CK_OK;
}

static int not_hidden(const struct dirent *entry) {
    return entry->d_name[0] != '.';
}

/* Every file in a folder that holds tensors or says what they are, by name; folders within folders
 * of a diffusers model too. */
static ck_status stamp_folder(const char *folder, int depth, ck_sha256 *hash, ck_error *err) {
    struct dirent **entries;
    int count = scandir(folder, &entries, not_hidden, alphasort);
    if (count < 0) return ck_fail_errno(err, "%s: cannot be listed", folder);
    ck_status status = CK_OK;
    for (int i = 0; i < count; i++) {
        char *path = ck_sprintf("%s/%s", folder, entries[i]->d_name);
        const char *dot = strrchr(entries[i]->d_name, '.');
        struct stat st;
        if (!path)
            status = ck_fail_memory(err, folder);
        else if (status == CK_OK && stat(path, &st) == 0 && S_ISDIR(st.st_mode) && depth > 0)
            status = stamp_folder(path, depth - 1, hash, err);
        else if (status == CK_OK && dot &&
                 (strcmp(dot, ".safetensors") == 0 || strcmp(dot, ".json") == 0 ||
                  strcmp(dot, ".bin") == 0)) {
            ck_sha256_update(hash, path, strlen(path));
            status = stamp_file(path, hash, err);
        }
        free(path);
        free(entries[i]);
    }
    free(entries);
    return status;
}

ck_status ck_model_stamp(const char *path, ck_sha256 *hash, ck_error *err) {
    ck_reader *r;
    CK_TRY(ck_reader_open(path, &r, err));
    bool several = in_several_files(r);
    ck_reader_close(r);
    struct stat st;
    if (!several) return stamp_file(path, hash, err);
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return stamp_folder(path, 1, hash, err);
    const char *slash = strrchr(path, '/');
    char *folder = slash ? ck_strndup(path, (size_t)(slash - path) + 1) : ck_strdup(".");
    if (!folder) return ck_fail_memory(err, path);
    ck_status status = stamp_folder(folder, 0, hash, err);
    free(folder);
    return status;
}
