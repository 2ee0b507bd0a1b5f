/* Binary search in tables; see unicode.h. */
#include "distill/models/unicode.h"
#include "distill/models/unicode_int.h"

uint32_t ck_unicode_next(const char *text, size_t *at) {
    unsigned char first = (unsigned char)text[(*at)++];
    if (first < 0x80) return first;
    int more = first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
    uint32_t c = first & (0x3fu >> more);
    while (more--) c = c << 6 | ((unsigned char)text[(*at)++] & 0x3f);
    return c;
}

static bool in_ranges(const uint32_t *rows, size_t count, uint32_t c) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (c > rows[2 * middle + 1])
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && c >= rows[2 * low];
}

bool ck_unicode_is_letter(uint32_t c) {
    return in_ranges(ck_unicode__letters, ck_unicode__letters_count, c);
}

bool ck_unicode_is_number(uint32_t c) {
    return in_ranges(ck_unicode__numbers, ck_unicode__numbers_count, c);
}

bool ck_unicode_is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

uint32_t ck_unicode_lower(uint32_t c) {
    size_t low = 0, high = ck_unicode__lower_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if ((int32_t)c > ck_unicode__lower[4 * middle + 1])
            low = middle + 1;
        else
            high = middle;
    }
    const int32_t *row = ck_unicode__lower + 4 * low;
    if (low == ck_unicode__lower_count || (int32_t)c < row[0]) return c;
    return ((int32_t)c - row[0]) % row[2] == 0 ? (uint32_t)((int32_t)c + row[3]) : c;
}
