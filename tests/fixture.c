/* Plain files for tests; see fixture.h. */
#include "tests/fixture.h"
#include "tests/check.h"

#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void fixture_make(fixture *f) {
    strcpy(f->folder, "/tmp/ckmerge-test-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

void fixture_remove(fixture *f) {
    nftw(f->folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *fixture_path(const fixture *f, const char *name) {
    static char paths[16][512];
    static unsigned next;
    char *path = paths[next++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", f->folder, name);
    return path;
}

int fixture_entries(const fixture *f) {
    DIR *dir = opendir(f->folder);
    assert_non_null(dir);
    int n = 0;
    for (struct dirent *e; (e = readdir(dir));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(dir);
    return n;
}

const char *fixture_file(const fixture *f, const char *name, const void *data, size_t n) {
    const char *path = fixture_path(f, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
    return path;
}

unsigned char *fixture_read(const char *path, size_t *n) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *n = (size_t)ftell(file);
    rewind(file);
    unsigned char *data = malloc(*n + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *n, file), *n);
    fclose(file);
    return data;
}

const char *fixture_raw_safetensors(const fixture *f, const char *name, const char *header,
                                    const void *data, size_t n) {
    size_t length = strlen(header);
    unsigned char *all = calloc(1, 8 + length + n + 1);
    assert_non_null(all);
    for (int i = 0; i < 8; i++) all[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(all + 8, header, length);
    if (n) memcpy(all + 8 + length, data, n);
    const char *path = fixture_file(f, name, all, 8 + length + n);
    free(all);
    return path;
}

static size_t bytes_of(const fixture_tensor *t) {
    size_t n = ck_dtype_bits(t->dtype);
    for (size_t i = 0; i < t->rank; i++) n *= t->shape[i];
    return n / 8;
}

const char *fixture_safetensors(const fixture *f, const char *name, const fixture_tensor *tensors,
                                size_t count, const char *metadata) {
    char *header = NULL;
    size_t header_size = 0, offset = 0, total = 0;
    FILE *out = open_memstream(&header, &header_size);
    for (size_t i = 0; i < count; i++) total += bytes_of(&tensors[i]);
    unsigned char *data = malloc(total + 1);
    assert_non_null(data);
    fputc('{', out);
    if (metadata) fprintf(out, "\"__metadata__\":%s%s", metadata, count ? "," : "");
    for (size_t i = 0; i < count; i++) {
        const fixture_tensor *t = &tensors[i];
        size_t n = bytes_of(t);
        fprintf(out, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", t->name,
                ck_dtype_name(t->dtype));
        for (size_t d = 0; d < t->rank; d++)
            fprintf(out, "%s%llu", d ? "," : "", (unsigned long long)t->shape[d]);
        fprintf(out, "],\"data_offsets\":[%zu,%zu]}", offset, offset + n);
        memcpy(data + offset, t->data, n);
        offset += n;
    }
    fputc('}', out);
    fclose(out);
    const char *path = fixture_raw_safetensors(f, name, header, data, total);
    free(header);
    free(data);
    return path;
}

uint64_t fixture_random(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1Du;
}

float fixture_random_float(uint64_t *state) {
    return (float)(int32_t)(fixture_random(state) >> 32) * 0x1p-31f;
}
