/* Files that exist whole or not at all, on a disk and in memory (tmpfs). */
#include "io/os.h"
#include "io/writer.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static fixture folder;
static unsigned char *pages;
enum { SIZE = 5 * CK_PAGE + 123 };

static int setup(void **state) {
    (void)state;
    fixture_make(&folder);
    pages = ck_alloc_pages(SIZE);
    return pages ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    fixture_remove(&folder);
    free(pages);
    return 0;
}

static unsigned char byte_at(size_t i) {
    return (unsigned char)(i * 31 + 7);
}

/* Writes SIZE bytes in three blocks, the last one first, patches two bytes, commits. */
static ck_status write_all(const char *path, bool replace, ck_error *err) {
    ck_writer *w;
    CK_TRY(ck_writer_create(path, SIZE, replace, &w, err));
    const size_t begins[] = {4 * CK_PAGE, 0, CK_PAGE}, ends[] = {SIZE, CK_PAGE, 4 * CK_PAGE};
    ck_status status = CK_OK;
    for (int b = 0; b < 3 && status == CK_OK; b++) {
        for (size_t i = begins[b]; i < ends[b]; i++) pages[i - begins[b]] = byte_at(i);
        status = ck_writer_write(w, begins[b], pages, ends[b] - begins[b], err);
    }
    if (status == CK_OK) status = ck_writer_patch(w, 5, "xy", 2, err);
    if (status != CK_OK) {
        ck_writer_abort(w);
        return status;
    }
    return ck_writer_commit(w, err);
}

static void check_content(const char *path) {
    size_t n;
    unsigned char *data = fixture_read(path, &n);
    assert_int_equal(n, SIZE);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(data[i], i == 5 ? 'x' : i == 6 ? 'y' : byte_at(i));
    free(data);
}

static void test_write(void **state) {
    (void)state;
    ck_error err;
    const char *const paths[] = {fixture_path(&folder, "out"), "/dev/shm/ckmerge-test-writer"};
    for (int i = 0; i < 2; i++) {
        unlink(paths[i]);
        if (write_all(paths[i], false, &err) != CK_OK) fail_msg("%s", err.message);
        check_content(paths[i]);
        assert_int_equal(write_all(paths[i], false, &err), CK_USAGE);
        assert_non_null(strstr(err.message, "--force"));
        assert_int_equal(write_all(paths[i], true, &err), CK_OK);
        check_content(paths[i]);
        unlink(paths[i]);
    }
    assert_int_equal(fixture_entries(&folder), 0);
}

static void test_small_and_empty(void **state) {
    (void)state;
    ck_error err;
    const char *path = fixture_path(&folder, "small");
    size_t n;
    for (size_t size = 0; size < 2; size++) {
        assert_int_equal(ck_write_file(path, "x", size, true, &err), CK_OK);
        free(fixture_read(path, &n));
        assert_int_equal(n, size);
    }
}

static void test_refusals(void **state) {
    (void)state;
    ck_writer *w;
    ck_error err;
    assert_int_equal(ck_writer_create(folder.folder, 1, true, &w, &err), CK_USAGE);
    assert_non_null(strstr(err.message, "is a folder"));
    assert_int_equal(ck_writer_create("/dev/null", 1, true, &w, &err), CK_USAGE);
    assert_int_equal(ck_writer_create(fixture_path(&folder, "no/such/file"), 1, false, &w, &err),
                     CK_IO);
    assert_int_equal(ck_writer_create(fixture_path(&folder, "big"), UINT64_MAX, false, &w, &err),
                     CK_USAGE);
    /* More than any disk: known before a byte is written, with the numbers. */
    assert_int_equal(ck_writer_create(fixture_path(&folder, "big"), 1ull << 60, false, &w, &err),
                     CK_IO);
    assert_non_null(strstr(err.message, "GB free"));
    assert_int_equal(fixture_entries(&folder), 0);
}

static void test_symbolic_link_stays(void **state) {
    (void)state;
    ck_error err;
    const char *target = fixture_file(&folder, "target", "old", 3),
               *name = fixture_path(&folder, "name");
    assert_int_equal(chmod(target, 0640), 0);
    assert_int_equal(symlink("target", name), 0);
    assert_int_equal(write_all(name, true, &err), CK_OK);
    struct stat st;
    assert_int_equal(lstat(name, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(stat(target, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    check_content(target);
}

static int open_files(void) {
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;
    while (readdir(dir)) n++;
    closedir(dir);
    return n;
}

/* File systems without unnamed files, and those that refuse direct I/O only when it comes to it. */
static int open_without_tmpfile(const char *path, int flags, mode_t mode) {
    if ((flags & O_TMPFILE) == O_TMPFILE) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return open(path, flags | O_CLOEXEC, mode);
}

static ssize_t pwrite_without_direct(int fd, const void *buf, size_t n, off_t offset) {
    if (fcntl(fd, F_GETFL) & O_DIRECT) {
        errno = EINVAL;
        return -1;
    }
    return pwrite(fd, buf, n, offset);
}

static void test_poorer_file_systems(void **state) {
    (void)state;
    struct ck_os saved = ck_os;
    ck_error err;
    const char *path = fixture_path(&folder, "poor");
    for (int i = 1; i < 4; i++) {
        if (i & 1) ck_os.open = open_without_tmpfile;
        if (i & 2) ck_os.pwrite = pwrite_without_direct;
        ck_status fresh = write_all(path, false, &err), again = write_all(path, true, &err);
        ck_os = saved;
        assert_int_equal(fresh, CK_OK);
        assert_int_equal(again, CK_OK);
        check_content(path);
        unlink(path);
        assert_int_equal(fixture_entries(&folder), 0);
    }
}

static void test_faults(void **state) {
    (void)state;
    const char *path = fixture_path(&folder, "faulty");
    int fds = open_files();
    for (int named = 0; named < 2; named++)
        for (int replace = 0; replace < 2; replace++)
            for (int kind = 0; kind < FAULT_KINDS; kind++)
                for (fault_first((fault_kind)kind, EIO); fault_more();) {
                    struct ck_os saved = ck_os;
                    unlink(path);
                    if (replace) fixture_file(&folder, "faulty", "old", 3);
                    ck_error err = {0};
                    if (named) ck_os.open = open_without_tmpfile;
                    fault_arm();
                    ck_status status = write_all(path, replace, &err);
                    fault_disarm();
                    ck_os = saved;
                    assert_int_equal(open_files(), fds);
                    if (status == CK_OK) {
                        check_content(path);
                    } else if (strstr(err.message, "written, but")) {
                        check_content(path);
                    } else {
                        assert_non_null(strstr(err.message, path));
                        assert_int_equal(fixture_entries(&folder), replace);
                        size_t n = 3;
                        if (replace) free(fixture_read(path, &n));
                        assert_int_equal(n, 3);
                    }
                }
}

static void test_short_writes(void **state) {
    (void)state;
    ck_error err;
    const char *path = fixture_path(&folder, "short");
    fault_short_io(CK_PAGE);
    fault_arm();
    ck_status status = write_all(path, false, &err);
    fault_disarm();
    fault_short_io(0);
    assert_int_equal(status, CK_OK);
    check_content(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_write, setup, teardown),
        cmocka_unit_test_setup_teardown(test_small_and_empty, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_symbolic_link_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_poorer_file_systems, setup, teardown),
        cmocka_unit_test_setup_teardown(test_faults, setup, teardown),
        cmocka_unit_test_setup_teardown(test_short_writes, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
