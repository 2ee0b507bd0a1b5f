/* A walk over lead and continuation bytes for utf8.h. */
#include "io/utf8.h"

#include <stdio.h>
#include <string.h>

size_t ck_utf8_check(const unsigned char *s, size_t n) {
    size_t i = 0;
    while (i < n) {
        /* Headers are nearly all ASCII: eight bytes at a time. */
        uint64_t eight;
        if (n - i >= 8 && (memcpy(&eight, s + i, 8), (eight & 0x8080808080808080u) == 0)) {
            i += 8;
            continue;
        }
        unsigned char lead = s[i];
        if (lead < 0x80) {
            i++;
            continue;
        }
        /* The second byte's range excludes overlong forms, surrogates and what is too large. */
        unsigned char low = 0x80, high = 0xBF;
        size_t more;
        if (lead >= 0xC2 && lead <= 0xDF) {
            more = 1;
        } else if (lead >= 0xE0 && lead <= 0xEF) {
            more = 2;
            if (lead == 0xE0) low = 0xA0;
            if (lead == 0xED) high = 0x9F;
        } else if (lead >= 0xF0 && lead <= 0xF4) {
            more = 3;
            if (lead == 0xF0) low = 0x90;
            if (lead == 0xF4) high = 0x8F;
        } else {
            return i;
        }
        if (n - i <= more || s[i + 1] < low || s[i + 1] > high) return i;
        for (size_t k = 2; k <= more; k++)
            if ((s[i + k] & 0xC0) != 0x80) return i;
        i += 1 + more;
    }
    return n;
}

size_t ck_utf8_encode(uint32_t c, char out[4]) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char leads[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = n - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3F));
    out[0] = (char)(leads[n] | c);
    return n;
}

void ck_make_printable(char *text) {
    for (unsigned char *s = (unsigned char *)text; *s; s++) {
        if (*s < 0x20 || *s == 0x7F) *s = '?';
        /* U+0080 to U+009F are control characters, too. */
        if (s[0] == 0xC2 && s[1] >= 0x80 && s[1] <= 0x9F) s[0] = s[1] = '?';
    }
}

const char *ck_printable(char *buf, size_t size, const char *text) {
    if ((size_t)snprintf(buf, size, "%s", text) >= size) {
        size_t end = size - sizeof "...";
        while (end > 0 && ((unsigned char)buf[end] & 0xC0) == 0x80) end--;
        strcpy(buf + end, "...");
    }
    ck_make_printable(buf);
    return buf;
}
