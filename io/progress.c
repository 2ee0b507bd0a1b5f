/* Drawing for progress.h: whoever adds bytes when the next drawing is due draws the line. */
#include "io/progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static const uint64_t draw_interval_ns = 1000000000u / 6;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int terminal_width(void) {
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : 80;
}

const char *ck_format_bytes(char *buf, size_t size, uint64_t bytes) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    double value = (double)bytes;
    int unit = 0;
    /* 999.5 would be printed as 1000. */
    while (value >= 999.5) {
        value /= 1000;
        unit++;
    }
    int decimals = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    snprintf(buf, size, "%.*f %s", decimals, value, units[unit]);
    return buf;
}

/* "1:05" or "2:03:09". */
static void format_time(char *buf, size_t size, uint64_t seconds) {
    unsigned h = (unsigned)(seconds / 3600), m = (unsigned)(seconds / 60 % 60),
             s = (unsigned)(seconds % 60);
    if (h)
        snprintf(buf, size, "%u:%02u:%02u", h, m, s);
    else
        snprintf(buf, size, "%u:%02u", m, s);
}

const char *ck_progress_line(char *buf, size_t size, const char *label, uint64_t done,
                             uint64_t total, uint64_t elapsed_ns, int width) {
    char done_text[32], total_text[32], rate_text[32], eta[32] = "-:--";
    double elapsed = (double)elapsed_ns * 1e-9;
    double share = total ? (double)done / (double)total : 1;
    double rate = elapsed > 0 ? (double)done / elapsed : 0;
    if (share > 1) share = 1;
    if (rate > 0 && done <= total)
        format_time(eta, sizeof eta, (uint64_t)((double)(total - done) / rate + 0.5));
    char numbers[160];
    snprintf(numbers, sizeof numbers, " %3.0f%% %s / %s, %s/s, %s left", share * 100,
             ck_format_bytes(done_text, sizeof done_text, done),
             ck_format_bytes(total_text, sizeof total_text, total),
             ck_format_bytes(rate_text, sizeof rate_text, (uint64_t)rate), eta);
    /* The bar takes what is left of the line, if that is worth it. */
    int room = width - 1 - (int)strlen(label) - (int)strlen(numbers) - 3;
    char bar[64] = "";
    if (room > (int)sizeof bar - 4) room = (int)sizeof bar - 4;
    if (room >= 8) {
        int filled = (int)(share * room);
        bar[0] = ' ', bar[1] = '[';
        for (int i = 0; i < room; i++) bar[2 + i] = i < filled ? '#' : '.';
        bar[2 + room] = ']';
    }
    snprintf(buf, size, "%s%s%s", label, bar, numbers);
    if (width > 0 && strlen(buf) >= (size_t)width && size > (size_t)width) buf[width - 1] = 0;
    return buf;
}

void ck_progress_start(ck_progress *p, const char *label, uint64_t total, bool quiet) {
    p->label = label;
    p->total = total;
    atomic_init(&p->done, 0);
    p->start_ns = now_ns();
    /* Work of a moment draws nothing. */
    atomic_init(&p->next_draw_ns, p->start_ns + draw_interval_ns);
    p->active = !quiet && isatty(STDERR_FILENO);
}

void ck_progress_add(ck_progress *p, uint64_t bytes) {
    uint64_t done = atomic_fetch_add(&p->done, bytes) + bytes;
    if (!p->active) return;
    uint64_t now = now_ns(), due = atomic_load(&p->next_draw_ns);
    if (now < due ||
        !atomic_compare_exchange_strong(&p->next_draw_ns, &due, now + draw_interval_ns))
        return;
    char line[512];
    int width = terminal_width();
    ck_progress_line(line, sizeof line, p->label, done, p->total, now - p->start_ns, width);
    fprintf(stderr, "\r%s\x1b[K", line);
    fflush(stderr);
}

void ck_progress_end(ck_progress *p) {
    if (!p->active) return;
    fputs("\r\x1b[K", stderr);
    fflush(stderr);
}
