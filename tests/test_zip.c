/* Zip archives: entries found and streamed, and every broken rule refused by name. The archives
 * come from tests/make_ckpt.py and from torch. */
#include "tests/check.h"

#include "io/os.h"
#include "io/zip.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ck_error err;

static const char *made(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "tests/data/ckpt/%s.ckpt", name);
    return path;
}

/* Opens and closes an archive; its count of entries to *count. */
static ck_status try_open(const char *path, size_t *count) {
    int fd = ck_os.open(path, O_RDONLY, 0);
    if (fd < 0) return ck_fail_errno(&err, "%s", path);
    ck_zip *zip = NULL;
    ck_status status = ck_zip_open(fd, path, &zip, &err);
    if (status == CK_OK) *count = ck_zip_count(zip);
    ck_zip_close(zip);
    close(fd);
    return status;
}

/* ---- What can be read ---- */

typedef struct opened {
    int fd;
    ck_zip *zip;
} opened;

static opened open_zip(const char *path) {
    opened o = {open(path, O_RDONLY), NULL};
    assert_true(o.fd >= 0);
    if (ck_zip_open(o.fd, path, &o.zip, &err) != CK_OK) fail_msg("%s", err.message);
    return o;
}

static void close_zip(opened o) {
    ck_zip_close(o.zip);
    close(o.fd);
}

static void test_entries(void **state) {
    (void)state;
    opened o = open_zip(made("good"));
    assert_int_equal(ck_zip_count(o.zip), 4);
    static const char *const order[] = {"a/data.pkl", "a/byteorder", "a/data/0", "a/version"};
    for (size_t i = 0; i < 4; i++) {
        const ck_zip_entry *e = ck_zip_at(o.zip, i);
        assert_string_equal(e->name, order[i]);
        assert_ptr_equal(ck_zip_find(o.zip, order[i]), e);
        assert_int_equal(e->size, e->packed);
        assert_false(e->deflated);
    }
    float values[4];
    const ck_zip_entry *e = ck_zip_find(o.zip, "a/data/0");
    assert_int_equal(e->size, sizeof values);
    assert_int_equal(pread(o.fd, values, sizeof values, (off_t)e->offset), sizeof values);
    for (int i = 0; i < 4; i++) assert_true(values[i] == (float)(i + 1));
    static const char *const absent[] = {"", "a", "a/data", "a/data.pkl2", "b"};
    for (size_t i = 0; i < 5; i++) assert_null(ck_zip_find(o.zip, absent[i]));
    close_zip(o);
}

static void test_variants(void **state) {
    (void)state;
    static const struct {
        const char *name;
        size_t count;
    } files[] = {{"good_zip64", 2},
                 {"good_deflated", 2},
                 {"good_wrong_crc", 4},
                 {"good_trailing", 4},
                 {"good_folder_entry", 3}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        size_t count = 0;
        if (try_open(made(files[i].name), &count) != CK_OK) fail_msg("%s", err.message);
        assert_int_equal(count, files[i].count);
    }
}

/* The entry's content, read `step` bytes at a time; the caller frees. */
static unsigned char *stream_all(opened o, const ck_zip_entry *e, size_t step) {
    unsigned char *all = malloc((size_t)e->size + 1);
    ck_zip_stream *s;
    assert_int_equal(ck_zip_stream_open(o.fd, "f", e, &s, &err), CK_OK);
    size_t done = 0, got = 1;
    while (got > 0) {
        size_t room = e->size - done < step ? (size_t)e->size - done + 1 : step;
        assert_int_equal(ck_zip_stream_read(s, all + done, room, &got, &err), CK_OK);
        done += got;
    }
    assert_int_equal(done, e->size);
    ck_zip_stream_close(s);
    return all;
}

static void test_streams(void **state) {
    (void)state;
    opened stored = open_zip("tests/data/torch/views_stored.pt");
    opened deflated = open_zip("tests/data/torch/views_deflated.pt");
    assert_int_equal(ck_zip_count(stored.zip), ck_zip_count(deflated.zip));
    int packed = 0;
    for (size_t i = 0; i < ck_zip_count(stored.zip); i++) {
        const ck_zip_entry *a = ck_zip_at(stored.zip, i), *b = ck_zip_at(deflated.zip, i);
        packed += b->deflated;
        assert_int_equal(a->size, b->size);
        unsigned char *want = stream_all(stored, a, 1000);
        for (size_t step = 1; step <= 4097; step += 512) {
            unsigned char *got = stream_all(deflated, b, step);
            assert_memory_equal(got, want, a->size);
            free(got);
        }
        int fd;
        unsigned char *copy = calloc(1, (size_t)a->size + 8);
        assert_int_equal(ck_zip_temporary("f", &fd, &err), CK_OK);
        assert_int_equal(ck_zip_extract(deflated.fd, "f", b, fd, 5, &err), CK_OK);
        assert_int_equal(pread(fd, copy, (size_t)a->size + 8, 0), a->size + (a->size ? 5 : 0));
        assert_memory_equal(copy + 5, want, a->size);
        close(fd);
        free(copy);
        free(want);
    }
    assert_true(packed > 3);
    close_zip(stored);
    close_zip(deflated);
}

static void test_temporary_folder(void **state) {
    (void)state;
    int fd;
    setenv("TMPDIR", "/nonexistent-folder", 1);
    assert_int_equal(ck_zip_temporary("m.ckpt", &fd, &err), CK_IO);
    assert_non_null(strstr(err.message, "m.ckpt"));
    assert_non_null(strstr(err.message, "/nonexistent-folder"));
    unsetenv("TMPDIR");
}

/* ---- What is refused ---- */

static const struct refusal {
    const char *file, *message;
} refusals[] = {
    {"zip_cut", "no directory at its end"},
    {"zip_cut_data", "no directory at its end"},
    {"zip_encrypted", "'a/data.pkl' is encrypted"},
    {"zip_patched", "'a/data.pkl' is encrypted or patched (flags 0x20)"},
    {"zip_strong_encryption", "'a/data.pkl' is encrypted"},
    {"zip_local_name", "'a/data.pkl': local header at offset 0: another name"},
    {"zip_local_method", "'a/data.pkl': local header at offset 0: another compression"},
    {"zip_method", "'a/data.pkl': compression method 12"},
    {"zip_duplicate", "'a/data.pkl' is there twice"},
    {"zip_overlap", "'a/data.pkl' and 'a/data/0' overlap"},
    {"zip_climbs", "climbs out"},
    {"zip_absolute", "absolute"},
    {"zip_nul", "contains a NUL"},
    {"zip_elsewhere", "it should end at"},
    {"zip_count", "belong to no entry"},
    {"zip_count_large", "60000 entries: too small"},
    {"zip_beyond", "reach into the directory"},
    {"zip_size_lie", "1000000000 bytes cannot come from"},
    {"zip_zip64_lies", "contradicts"},
};

static void test_refused(void **state) {
    const struct refusal *r = *state;
    size_t count;
    assert_int_equal(try_open(made(r->file), &count), CK_INPUT);
    if (!strstr(err.message, r->message)) fail_msg("%s", err.message);
    assert_non_null(strstr(err.message, made(r->file)));
}

/* Content that does not keep what the directory says is handed out until it breaks. */
static void test_broken_content(void **state) {
    (void)state;
    static const struct refusal broken[] = {{"zip_inflate_short", "shorter"},
                                            {"zip_inflate_long", "longer"},
                                            {"zip_inflate_damaged", "damaged"}};
    for (size_t i = 0; i < 3; i++) {
        opened o = open_zip(made(broken[i].file));
        const ck_zip_entry *e = ck_zip_find(o.zip, "a/data.pkl");
        ck_zip_stream *s;
        assert_int_equal(ck_zip_stream_open(o.fd, "f", e, &s, &err), CK_OK);
        unsigned char buffer[512];
        size_t total = 0, got = 1;
        ck_status status = CK_OK;
        while (status == CK_OK && got > 0) {
            status = ck_zip_stream_read(s, buffer, sizeof buffer, &got, &err);
            if (status == CK_OK) total += got;
        }
        assert_int_equal(status, CK_INPUT);
        if (!strstr(err.message, broken[i].message)) fail_msg("%s", err.message);
        assert_true(total <= e->size);
        if (i < 2) assert_true(total + 1 >= e->size);
        ck_zip_stream_close(s);
        close_zip(o);
    }
}

/* Every file cut at every length: an error, or the same entries (when only the end is missing that
 * nobody needs). */
static void test_cut_everywhere(void **state) {
    (void)state;
    fixture f;
    fixture_make(&f);
    size_t n, count;
    unsigned char *bytes = fixture_read(made("good_zip64"), &n);
    for (size_t cut = 0; cut < n; cut++)
        assert_int_equal(try_open(fixture_file(&f, "cut", bytes, cut), &count), CK_INPUT);
    free(bytes);
    fixture_remove(&f);
}

static void test_faults(void **state) {
    (void)state;
    static const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC, FAULT_PREAD, FAULT_OPEN};
    for (size_t k = 0; k < 4; k++)
        for (fault_first(kinds[k], EIO); fault_more();) {
            size_t count = 0;
            fault_arm();
            ck_status status = try_open(made("good"), &count);
            fault_disarm();
            assert_true(fault_hit() ? status != CK_OK : status == CK_OK && count == 4);
        }
    opened o = open_zip(made("good_deflated"));
    static const fault_kind extract_kinds[] = {FAULT_CALLOC, FAULT_PREAD, FAULT_PWRITE};
    for (size_t k = 0; k < 3; k++)
        for (fault_first(extract_kinds[k], EIO); fault_more();) {
            int fd;
            assert_int_equal(ck_zip_temporary("f", &fd, &err), CK_OK);
            fault_arm();
            ck_status status =
                ck_zip_extract(o.fd, "f", ck_zip_find(o.zip, "a/data/0"), fd, 0, &err);
            fault_disarm();
            assert_true(fault_hit() ? status != CK_OK : status == CK_OK);
            close(fd);
        }
    close_zip(o);
}

int main(void) {
    enum { REFUSALS = sizeof refusals / sizeof *refusals };
    struct CMUnitTest tests[REFUSALS + 7] = {
        cmocka_unit_test(test_entries),        cmocka_unit_test(test_variants),
        cmocka_unit_test(test_streams),        cmocka_unit_test(test_temporary_folder),
        cmocka_unit_test(test_broken_content), cmocka_unit_test(test_cut_everywhere),
        cmocka_unit_test(test_faults),
    };
    for (size_t i = 0; i < REFUSALS; i++)
        tests[7 + i] = (struct CMUnitTest){.name = refusals[i].file,
                                           .test_func = test_refused,
                                           .initial_state = (void *)(uintptr_t)&refusals[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
