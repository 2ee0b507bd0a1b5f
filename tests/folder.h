/* For a test file whose tests each have a temporary folder: f, made and removed by set_up and
 * tear_down, and ok(), which fails with the message that is in err. */
#ifndef CK_TESTS_FOLDER_H
#define CK_TESTS_FOLDER_H

#include "tests/check.h"
#include "tests/fixture.h"

static fixture f;
static ck_error err;

static inline int set_up(void **state) {
    (void)state;
    fixture_make(&f);
    return 0;
}

static inline int tear_down(void **state) {
    (void)state;
    fixture_remove(&f);
    return 0;
}

static inline void ok(ck_status s) {
    if (s != CK_OK) print_error("%s\n", err.message);
    assert_int_equal(s, CK_OK);
}

#endif
