/* What a tokenizer has to know about characters.
 *
 *   for (size_t at = 0; at < n;) {
 *       uint32_t c = ck_unicode_next(text, &at);       text has passed ck_utf8_check
 *       if (ck_unicode_is_letter(c)) ...
 *   }
 */
#ifndef CK_UNICODE_H
#define CK_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The code point at text[*at], which becomes the offset of the next. The text is valid UTF-8. */
uint32_t ck_unicode_next(const char *text, size_t *at);

bool ck_unicode_is_letter(uint32_t c); /* general categories L* */
bool ck_unicode_is_number(uint32_t c); /* N* */
bool ck_unicode_is_space(uint32_t c);  /* White_Space */

/* The lower case of one character, without regard to its neighbours. */
uint32_t ck_unicode_lower(uint32_t c);

#endif
