/* Text of a page, and numbers as people read them; see report_int.h. */
#include "distill/run/report_int.h"
#include "io/os.h"
#include "io/progress.h"
#include "io/utf8.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static bool reserve(ck_page *page, size_t n) {
    while (!page->failed && page->capacity - page->n < n) {
        char *moved = ck_grow(page->text, page->capacity, &page->capacity, 1);
        if (!moved)
            page->failed = true;
        else
            page->text = moved;
    }
    return !page->failed;
}

void ck_page__bytes(ck_page *page, const char *bytes, size_t n) {
    if (!reserve(page, n)) return;
    memcpy(page->text + page->n, bytes, n);
    page->n += n;
}

void ck_page__put(ck_page *page, const char *format, ...) {
    char text[1024]; /* the longest format is far shorter, and texts go through escaped */
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ck_page__bytes(page, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1);
}

static void put_valid(ck_page *page, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        bool control = (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f;
        switch (c) {
        case '&':
            ck_page__put(page, "&amp;");
            break;
        case '<':
            ck_page__put(page, "&lt;");
            break;
        case '>':
            ck_page__put(page, "&gt;");
            break;
        case '"':
            ck_page__put(page, "&quot;");
            break;
        case '\'':
            ck_page__put(page, "&#39;");
            break;
        default:
            ck_page__bytes(page, control ? "?" : text + i, 1);
        }
    }
}

void ck_page__escaped(ck_page *page, const char *text) {
    for (size_t left = text ? strlen(text) : 0; left > 0;) {
        size_t valid = ck_utf8_check((const unsigned char *)text, left);
        put_valid(page, text, valid);
        if (valid == left) return;
        ck_page__put(page, "?");
        text += valid + 1;
        left -= valid + 1;
    }
}

const char *ck_page__number(char buf[32], double value, bool bytes) {
    double size = fabs(value);
    if (!isfinite(value))
        snprintf(buf, 32, "not finite");
    else if (bytes && value >= 0 && value < 0x1p63)
        ck_format_bytes(buf, 32, (uint64_t)value);
    else if (size >= 1e6 && size < 1e9)
        snprintf(buf, 32, "%.4gM", value / 1e6);
    else if (size >= 1e4 && size < 1e6)
        snprintf(buf, 32, "%.4gk", value / 1e3);
    else
        snprintf(buf, 32, "%.4g", value);
    return buf;
}

void ck_page__duration(ck_page *page, double seconds) {
    if (!(seconds >= 0 && seconds < 1e10)) seconds = 0;
    unsigned long long s = (unsigned long long)seconds;
    if (s >= 3600)
        ck_page__put(page, "%llu h %llu min", s / 3600, s % 3600 / 60);
    else if (s >= 60)
        ck_page__put(page, "%llu min %llu s", s / 60, s % 60);
    else
        ck_page__put(page, "%.3g s", seconds);
}

void ck_page__time(ck_page *page, double seconds) {
    time_t t = seconds >= 0 && seconds < 1e11 ? (time_t)seconds : 0;
    struct tm parts;
    char text[64] = "";
    if (gmtime_r(&t, &parts)) strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", &parts);
    ck_page__put(page, "%s", text);
}

void ck_page__base64(ck_page *page, const unsigned char *bytes, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i;
        unsigned long word = (unsigned long)bytes[i] << 16;
        if (left > 1) word |= (unsigned long)bytes[i + 1] << 8;
        if (left > 2) word |= bytes[i + 2];
        char four[] = {digits[word >> 18], digits[word >> 12 & 63],
                       left > 1 ? digits[word >> 6 & 63] : '=', left > 2 ? digits[word & 63] : '='};
        ck_page__bytes(page, four, 4);
    }
}
