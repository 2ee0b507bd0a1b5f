/* Charts of report_int.h: a night's million points become at most BINS of them, each with the
 * mean and the range of what fell into it; FEW points get a dot each. */
#include "distill/run/report_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    WIDTH = 640,
    HEIGHT = 230,
    LEFT = 70,
    RIGHT = 16,
    TOP = 12,
    BOTTOM = 40,
    BINS = 280,
    FEW = 60
};

typedef struct axis {
    double low, high; /* in the units of scaled() */
    bool log;
} axis;

static double scaled(const axis *a, double value) {
    return a->log ? log10(value) : value;
}

static double x_of(const axis *a, double value) {
    return LEFT + (scaled(a, value) - a->low) / (a->high - a->low) * (WIDTH - LEFT - RIGHT);
}

static double y_of(const axis *a, double value) {
    return HEIGHT - BOTTOM -
           (scaled(a, value) - a->low) / (a->high - a->low) * (HEIGHT - TOP - BOTTOM);
}

/* Larger numbers than that would overflow on the way, and say as little. */
static bool drawable(ck_point p) {
    return fabs(p.x) < 1e100 && fabs(p.y) < 1e100;
}

/* Whether there is nothing to see between them. */
static bool same(double low, double high) {
    return high - low <= 1e-9 * fmax(fabs(low), fabs(high));
}

/* The range of x (or y) over all lines; false where no point is finite. */
static bool find_range(const ck_chart *c, bool of_y, double *low, double *high) {
    *low = INFINITY;
    *high = -INFINITY;
    for (size_t l = 0; l < c->count; l++)
        for (size_t i = 0; i < c->lines[l].count; i++) {
            ck_point p = c->lines[l].points[i];
            if (!drawable(p)) continue;
            *low = fmin(*low, of_y ? p.y : p.x);
            *high = fmax(*high, of_y ? p.y : p.x);
        }
    return *low <= *high;
}

/* The largest of 1, 2, 5, 10, ... that cuts length into at least count pieces. */
static double nice_step(double length, int count) {
    double rough = length / count, power = pow(10, floor(log10(rough)));
    return power * (rough >= 5 * power ? 5 : rough >= 2 * power ? 2 : 1);
}

static axis make_y(double low, double high) {
    axis a = {.log = low > 0 && high / low > 30};
    if (same(low, high)) {
        low -= low != 0 ? fabs(low) / 10 : 1;
        high += high != 0 ? fabs(high) / 10 : 1;
    } else if (!a.log && low > 0 && low < high / 2)
        low = 0;
    a.low = scaled(&a, low);
    a.high = scaled(&a, high);
    double room = (a.high - a.low) / 20;
    if (low != 0) a.low -= room;
    a.high += room;
    return a;
}

static axis make_x(double low, double high, bool log) {
    axis a = {.log = log && low > 0};
    if (same(low, high)) high = low + fmax(1, fabs(low) / 10);
    a.low = scaled(&a, low);
    a.high = scaled(&a, high);
    return a;
}

/* ---- Drawing ---- */

static void put_y_tick(ck_page *page, const axis *y, double value, bool bytes) {
    double at = y_of(y, value);
    if (!(at >= TOP - 0.5 && at <= HEIGHT - BOTTOM + 0.5)) return;
    char text[32];
    ck_page__put(page, "<path class=g d='M%d %.1fH%d'/><text class=y x=%d y=%.1f>%s</text>", LEFT,
                 at, WIDTH - RIGHT, LEFT - 7, at + 4, ck_page__number(text, value, bytes));
}

static void put_x_tick(ck_page *page, const axis *x, double value) {
    double at = x_of(x, value);
    if (!(at >= LEFT - 0.5 && at <= WIDTH - RIGHT + 0.5)) return;
    char text[32];
    ck_page__put(page, "<text class=x x=%.1f y=%d>%s</text>", at, HEIGHT - BOTTOM + 16,
                 ck_page__number(text, value, false));
}

static void put_y_ticks(ck_page *page, const axis *y, bool bytes) {
    if (!y->log) {
        double step = nice_step(y->high - y->low, 4);
        for (double k = ceil(y->low / step); k <= y->high / step; k++)
            put_y_tick(page, y, k * step, bytes);
        return;
    }
    int stride = (int)ceil((y->high - y->low) / 6);
    for (int power = (int)floor(y->low); power <= y->high; power++) {
        if (power % stride) continue;
        put_y_tick(page, y, pow(10, power), bytes);
        if (y->high - y->low > 2.5) continue;
        put_y_tick(page, y, 2 * pow(10, power), bytes);
        put_y_tick(page, y, 5 * pow(10, power), bytes);
    }
}

/* Numbers of steps double on a logarithmic axis. */
static void put_x_ticks(ck_page *page, const axis *x) {
    if (x->log) {
        for (double power = 0; power < 20; power++) put_x_tick(page, x, exp2(power));
        return;
    }
    double step = nice_step(x->high - x->low, 5);
    if (step < 1) step = 1;
    for (double k = ceil(x->low / step); k <= x->high / step; k++) put_x_tick(page, x, k * step);
}

typedef struct bin {
    double x, y; /* sums */
    double low, high;
    size_t count;
} bin;

static void fill_bins(const ck_line *line, const axis *x, bin *bins) {
    for (int b = 0; b < BINS; b++) bins[b] = (bin){.low = INFINITY, .high = -INFINITY};
    for (size_t i = 0; i < line->count; i++) {
        ck_point p = line->points[i];
        if (!drawable(p)) continue;
        int b = (int)((scaled(x, p.x) - x->low) / (x->high - x->low) * (BINS - 1));
        bins[b].x += p.x;
        bins[b].y += p.y;
        bins[b].low = fmin(bins[b].low, p.y);
        bins[b].high = fmax(bins[b].high, p.y);
        bins[b].count++;
    }
}

/* A polyline over the bins' means, lows or highs, from left to right or back; letter begins it. */
enum bin_value { MEAN, LOW, HIGH };

static void put_polyline(ck_page *page, const bin *bins, enum bin_value which, char letter,
                         const axis *x, const axis *y) {
    for (int i = 0; i < BINS; i++) {
        const bin *b = &bins[which == LOW ? BINS - 1 - i : i];
        if (!b->count) continue;
        double value = which == MEAN ? b->y / (double)b->count : which == LOW ? b->low : b->high;
        ck_page__put(page, "%c%.1f %.1f", letter, x_of(x, b->x / (double)b->count), y_of(y, value));
        letter = 'L';
    }
}

/* The means; dots where there are few of them, else the range as a band. */
static void put_line(ck_page *page, const ck_line *line, size_t index, const axis *x,
                     const axis *y) {
    bin bins[BINS];
    int used = 0;
    fill_bins(line, x, bins);
    for (int i = 0; i < BINS; i++) used += bins[i].count > 0;
    if (used >= FEW) {
        ck_page__put(page, "<path class='b c%zu' d='", index);
        put_polyline(page, bins, HIGH, 'M', x, y);
        put_polyline(page, bins, LOW, 'L', x, y);
        ck_page__put(page, "Z'/>");
    }
    ck_page__put(page, "<path class='l c%zu' d='", index);
    put_polyline(page, bins, MEAN, 'M', x, y);
    ck_page__put(page, "'/>");
    for (int i = 0; i < BINS && used < FEW; i++) {
        double count = (double)bins[i].count;
        if (bins[i].count)
            ck_page__put(page, "<circle class=c%zu r=3 cx=%.1f cy=%.1f />", index,
                         x_of(x, bins[i].x / count), y_of(y, bins[i].y / count));
    }
}

static void put_caption(ck_page *page, const ck_chart *c, bool log) {
    size_t bad = 0;
    ck_page__put(page, "<figcaption><b>");
    ck_page__escaped(page, c->title);
    ck_page__put(page, "</b>");
    for (size_t l = 0; l < c->count; l++) {
        const ck_line *line = &c->lines[l];
        if (line->label) {
            ck_page__put(page, " <span class=c%zu>&#9679; ", l);
            ck_page__escaped(page, line->label);
            ck_page__put(page, "</span>");
        }
        for (size_t i = 0; i < line->count; i++) bad += !drawable(line->points[i]);
    }
    if (c->count == 1 && c->lines[0].count) {
        char text[32];
        double last = c->lines[0].points[c->lines[0].count - 1].y;
        ck_page__put(page, " <span class=q>last %s</span>", ck_page__number(text, last, c->bytes));
    }
    if (log) ck_page__put(page, " <span class=q>log scale</span>");
    if (bad) ck_page__put(page, " <span class=w>%zu not finite</span>", bad);
    ck_page__put(page, "</figcaption>");
}

void ck_chart__draw(ck_page *page, const ck_chart *c) {
    double low, high, first, last;
    bool some = find_range(c, true, &low, &high) && find_range(c, false, &first, &last);
    axis y = some ? make_y(low, high) : (axis){0}, x = some ? make_x(first, last, c->log_x) : y;
    ck_page__put(page, "<figure>");
    put_caption(page, c, y.log);
    if (some) {
        ck_page__put(page, "<svg viewBox='0 0 %d %d' role=img>", WIDTH, HEIGHT);
        put_y_ticks(page, &y, c->bytes);
        put_x_ticks(page, &x);
        ck_page__put(page, "<text class=x x=%d y=%d>", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6);
        ck_page__escaped(page, c->x_title);
        ck_page__put(page, "</text>");
        for (size_t i = 0; i < c->mark_count; i++) {
            if (!(c->marks[i].x >= first && c->marks[i].x <= last)) continue;
            ck_page__put(page, "<path class=m d='M%.1f %dV%d'><title>", x_of(&x, c->marks[i].x),
                         TOP, HEIGHT - BOTTOM);
            ck_page__escaped(page, c->marks[i].label);
            ck_page__put(page, "</title></path>");
        }
        for (size_t l = 0; l < c->count; l++) put_line(page, &c->lines[l], l, &x, &y);
        ck_page__put(page, "</svg>");
    }
    ck_page__put(page, "</figure>\n");
}
