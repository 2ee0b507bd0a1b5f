/* For a test file whose tests each have a temporary folder: f, made and removed by set_up and
 * tear_down; and err and ok() of ok.h. */
#ifndef CK_TESTS_FOLDER_H
#define CK_TESTS_FOLDER_H

#include "tests/ok.h"
#include "tests/fixture.h"

static fixture f;

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

#endif
