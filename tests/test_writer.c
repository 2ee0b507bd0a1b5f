/* Files that exist whole or not at all, on a disk and in memory (tmpfs). */
#include "io/os.h"
#include "io/writer.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static fixture folder;
static unsigned char *pages;
enum { SIZE = 5 * CK_PAGE + 123 };

static int setup(void **state) {
    (void)state;
    fixture_make(&folder);
    pages = ck_alloc_pages(SIZE);
    if (!pages) return -1;
    memset(pages, 0, SIZE);
    return 0;
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
    assert_int_equal(ck_writer_create("", 1, false, &w, &err), CK_USAGE);
    assert_int_equal(ck_writer_create(fixture_path(&folder, "new/"), 1, false, &w, &err), CK_USAGE);
    char name[300];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    assert_int_equal(ck_writer_create(fixture_path(&folder, name), 1, false, &w, &err), CK_IO);
    const char *lost = fixture_path(&folder, "lost");
    assert_int_equal(symlink("nothing", lost), 0);
    assert_int_equal(ck_writer_create(lost, 1, true, &w, &err), CK_USAGE);
    assert_non_null(strstr(err.message, "does not exist"));
    unlink(lost);
    /* More than any disk: known before a byte is written, with the numbers. */
    assert_int_equal(ck_writer_create(fixture_path(&folder, "big"), 1ull << 60, false, &w, &err),
                     CK_IO);
    assert_non_null(strstr(err.message, "GB free"));
    assert_int_equal(fixture_entries(&folder), 0);
}

/* A file that comes into being during the work is not overwritten. */
static void test_somebody_was_faster(void **state) {
    (void)state;
    ck_writer *w;
    ck_error err;
    const char *path = fixture_path(&folder, "out");
    assert_int_equal(ck_writer_create(path, CK_PAGE, false, &w, &err), CK_OK);
    assert_int_equal(ck_writer_write(w, 0, pages, CK_PAGE, &err), CK_OK);
    fixture_file(&folder, "out", "theirs", 6);
    assert_int_equal(ck_writer_commit(w, &err), CK_USAGE);
    assert_non_null(strstr(err.message, "--force"));
    size_t n;
    free(fixture_read(path, &n));
    assert_int_equal(n, 6);
    assert_int_equal(fixture_entries(&folder), 1);
}

/* kill -9 amid the work. */
static void test_killed(void **state) {
    (void)state;
    const char *path = fixture_path(&folder, "out");
    for (int replace = 0; replace < 2; replace++) {
        if (replace) fixture_file(&folder, "out", "old", 3);
        int ready[2];
        assert_int_equal(pipe(ready), 0);
        pid_t child = fork();
        if (child == 0) {
            ck_writer *w;
            ck_error err;
            bool ok = ck_writer_create(path, SIZE, replace, &w, &err) == CK_OK &&
                      ck_writer_write(w, 0, pages, CK_PAGE, &err) == CK_OK;
            if (!ok || write(ready[1], "", 1) != 1) _exit(1);
            for (;;) pause();
        }
        char byte;
        close(ready[1]);
        assert_int_equal(read(ready[0], &byte, 1), 1);
        close(ready[0]);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        assert_int_equal(fixture_entries(&folder), replace);
    }
    size_t n;
    free(fixture_read(path, &n));
    assert_int_equal(n, 3);
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

static int link_without_links(const char *from, const char *to) {
    (void)from, (void)to;
    errno = EPERM;
    return -1;
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
    enum { NO_TMPFILE = 1, NO_DIRECT = 2, NO_LINKS = 4 };
    const int kinds[] = {NO_TMPFILE, NO_DIRECT, NO_TMPFILE | NO_DIRECT, NO_TMPFILE | NO_LINKS};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (kinds[i] & NO_TMPFILE) ck_os.open = open_without_tmpfile;
        if (kinds[i] & NO_DIRECT) ck_os.pwrite = pwrite_without_direct;
        if (kinds[i] & NO_LINKS) ck_os.link = link_without_links;
        ck_status fresh = write_all(path, false, &err), again = write_all(path, true, &err);
        ck_writer *w;
        ck_status late = ck_writer_create(fixture_path(&folder, "late"), 1, false, &w, &err);
        fixture_file(&folder, "late", "theirs", 6);
        if (late == CK_OK) late = ck_writer_commit(w, &err);
        ck_os = saved;
        assert_int_equal(fresh, CK_OK);
        assert_int_equal(again, CK_OK);
        assert_int_equal(late, CK_USAGE);
        check_content(path);
        unlink(path);
        unlink(fixture_path(&folder, "late"));
        assert_int_equal(fixture_entries(&folder), 0);
    }
}

/* Two threads learn at the same moment that direct I/O is refused. */
static pthread_barrier_t both;

static ssize_t pwrite_refused_to_both(int fd, const void *buf, size_t n, off_t offset) {
    if (!(fcntl(fd, F_GETFL) & O_DIRECT)) return pwrite(fd, buf, n, offset);
    pthread_barrier_wait(&both);
    errno = EINVAL;
    return -1;
}

static ck_writer *shared;

static void *write_second_page(void *status) {
    ck_error err;
    *(ck_status *)status = ck_writer_write(shared, CK_PAGE, pages + CK_PAGE, CK_PAGE, &err);
    return NULL;
}

static void test_leaving_direct_together(void **state) {
    (void)state;
    struct ck_os saved = ck_os;
    ck_error err;
    pthread_t thread;
    ck_status first, second;
    const char *path = fixture_path(&folder, "out");
    memset(pages, 'p', 2 * CK_PAGE);
    assert_int_equal(ck_writer_create(path, 2 * CK_PAGE, false, &shared, &err), CK_OK);
    pthread_barrier_init(&both, NULL, 2);
    ck_os.pwrite = pwrite_refused_to_both;
    pthread_create(&thread, NULL, write_second_page, &second);
    first = ck_writer_write(shared, 0, pages, CK_PAGE, &err);
    pthread_join(thread, NULL);
    ck_os = saved;
    pthread_barrier_destroy(&both);
    assert_int_equal(ck_writer_commit(shared, &err), CK_OK);
    assert_int_equal(first, CK_OK);
    assert_int_equal(second, CK_OK);
    size_t n;
    unsigned char *data = fixture_read(path, &n);
    assert_int_equal(n, 2 * CK_PAGE);
    assert_memory_equal(data, pages, n);
    free(data);
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
                    assert_int_equal(status != CK_OK, fault_hit());
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
        cmocka_unit_test_setup_teardown(test_somebody_was_faster, setup, teardown),
        cmocka_unit_test_setup_teardown(test_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_symbolic_link_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_poorer_file_systems, setup, teardown),
        cmocka_unit_test_setup_teardown(test_leaving_direct_together, setup, teardown),
        cmocka_unit_test_setup_teardown(test_faults, setup, teardown),
        cmocka_unit_test_setup_teardown(test_short_writes, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
