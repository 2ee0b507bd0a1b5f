/* What every test file includes: cmocka in the order it needs, and temporary folders. */
#ifndef CK_TESTS_CHECK_H
#define CK_TESTS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

/* Whether a sanitizer or valgrind watches: they take much address space, and keep freed memory for
 * a while to find out who still uses it. */
static inline bool is_watched(void) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true;
#elif defined(__has_feature)
    return __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||
           getenv("CK_RUNNER");
#else
    return getenv("CK_RUNNER");
#endif
}

#endif
