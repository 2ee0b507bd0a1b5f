/* For a test file that calls much which may fail: err, and ok(), which fails the test with the
 * message in it. */
#ifndef CK_TESTS_OK_H
#define CK_TESTS_OK_H

#include "io/error.h"
#include "tests/check.h"

static ck_error err;

static inline void ok(ck_status s) {
    if (s != CK_OK) fail_msg("%s", err.message);
}

#endif
