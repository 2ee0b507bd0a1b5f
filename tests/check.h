/* What every test file includes: cmocka in the order it needs, and temporary folders. */
#ifndef CK_TESTS_CHECK_H
#define CK_TESTS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
