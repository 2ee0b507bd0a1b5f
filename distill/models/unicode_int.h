/* Tables behind unicode.c, sorted; _count is in rows. */
#ifndef CK_UNICODE_INT_H
#define CK_UNICODE_INT_H

#include <stddef.h>
#include <stdint.h>

/* Rows of first, last. */
extern const uint32_t ck_unicode__letters[];
extern const size_t ck_unicode__letters_count;
extern const uint32_t ck_unicode__numbers[];
extern const size_t ck_unicode__numbers_count;

/* Rows of first, last, step, what to add to have the lower case. */
extern const int32_t ck_unicode__lower[];
extern const size_t ck_unicode__lower_count;

#endif
