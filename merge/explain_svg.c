/* The picture of explain.h: one panel for every column. */
#include "merge/explain.h"

#include <math.h>
#include <string.h>

/* In pixels. */
enum {
    LEFT = 52,
    RIGHT = 16,
    TOP = 76,
    PANEL = 150,   /* height of a panel's bars */
    BELOW = 62,    /* room for the blocks' names under them */
    PLOT = 900,    /* width of all bars */
    GAP = 14,      /* between kinds of blocks */
    BROADEST = 34, /* bar */
};

/* Text from files, as text; what XML does not allow at all becomes a question mark. */
static void put_text(FILE *out, const char *text) {
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '&')
            fprintf(out, "&amp;");
        else if (c == '<')
            fprintf(out, "&lt;");
        else if (c == '>')
            fprintf(out, "&gt;");
        else
            fputc(c < 0x20 || c == 0x7f ? '?' : c, out);
    }
}

/* ---- Places ---- */

typedef struct axes {
    double low, high; /* of y; 0 and 1 are always in it */
    double step, bar; /* from bar to bar, and a bar's width */
    double top;       /* of the panel */
} axes;

static double y_of(const axes *a, double value) {
    return a->top + PANEL * (a->high - value) / (a->high - a->low);
}

static bool new_kind(const ck_explanation *e, size_t i) {
    return i > 0 && (e->rows[i].depth != e->rows[i - 1].depth ||
                     (e->rows[i].depth && e->rows[i].family != e->rows[i - 1].family));
}

static double x_of(const ck_explanation *e, const axes *a, size_t row) {
    double x = LEFT;
    for (size_t i = 1; i <= row; i++) x += a->step + (new_kind(e, i) ? GAP : 0);
    return x;
}

static void find_axes(const ck_explanation *e, size_t column, axes *a) {
    size_t gaps = 0;
    a->low = 0;
    a->high = 1;
    for (size_t i = 0; i < e->row_count; i++) {
        gaps += new_kind(e, i);
        if (!e->rows[i].mixed) continue;
        a->low = fmin(a->low, e->rows[i].ranges[column].low);
        a->high = fmax(a->high, e->rows[i].ranges[column].high);
    }
    a->step = fmin((PLOT - (double)gaps * GAP) / (double)e->row_count, BROADEST);
    a->bar = a->step * 0.78;
}

/* ---- Drawing ---- */

static void put_grid(FILE *out, const axes *a, double right) {
    double length = a->high - a->low, power = pow(10, floor(log10(length / 4)));
    double rough = length / 4 / power, step = power * (rough > 5 ? 10 : rough > 2 ? 5 : 2);
    if (rough <= 2.5 && rough > 2) step = power * 2.5;
    for (double k = ceil(a->low / step - 1e-9); k * step <= a->high + 1e-9 * length; k++) {
        double value = k * step, y = y_of(a, value);
        fprintf(out, "<path class='%s' d='M%d %.1fH%.1f'/>", value == 0 ? "z" : "g", LEFT - 4, y,
                right);
        fprintf(out, "<text class='y' x='%d' y='%.1f'>%.4g</text>\n", LEFT - 8, y + 4,
                value == 0 ? 0 : value);
    }
}

static void put_tip(FILE *out, const ck_row *row, const ck_range *range) {
    fprintf(out, "<title>%s: ", row->name);
    if (row->mixed && range->low == range->high)
        fprintf(out, "%.4g; ", range->low);
    else if (row->mixed)
        fprintf(out, "%.4g to %.4g; ", range->low, range->high);
    for (size_t i = 0; i < row->cause_count; i++) {
        fprintf(out, "%s%zu ", i ? ", " : "", row->causes[i].tensors);
        put_text(out, row->causes[i].text);
    }
    fprintf(out, "</title>");
}

/* From 0 to the mean, with a whisker from the least to the largest value; a dot on the line where
 * all is 0, a cross where nothing is computed. */
static void put_bar(FILE *out, const axes *a, const ck_row *row, const ck_range *range, double x) {
    double middle = x + a->bar / 2, zero = y_of(a, 0);
    fprintf(out, "<g>");
    put_tip(out, row, range);
    fprintf(out, "<rect class='n' x='%.1f' y='%.1f' width='%.1f' height='%d'/>", x, a->top, a->bar,
            PANEL);
    if (!row->mixed) {
        fprintf(out, "<path class='e' d='M%.1f %.1fl6 -6m-6 0l6 6'/>", middle - 3, zero - 4);
    } else {
        double mean = range->elements > 0 ? range->sum / range->elements : range->low;
        double y = y_of(a, fmax(mean, 0)), height = fabs(y_of(a, 0) - y_of(a, mean));
        fprintf(out, "<rect class='%s' x='%.1f' y='%.1f' width='%.1f' height='%.1f'/>",
                row->depth ? "b" : "o", x, y, a->bar, height);
        if (range->low == 0 && range->high == 0)
            fprintf(out, "<circle class='d' cx='%.1f' cy='%.1f' r='2'/>", middle, zero - 4);
        if (range->low != range->high)
            fprintf(out, "<path class='w' d='M%.1f %.1fV%.1fm-3 0h6M%.1f %.1fh6'/>", middle,
                    y_of(a, range->low), y_of(a, range->high), middle - 3, y_of(a, range->low));
    }
    fprintf(out, "</g>\n");
}

/* "04" under its bar, upright where the whole name is short enough, else turned. */
static void put_label(FILE *out, const axes *a, const ck_row *row, double x) {
    double middle = x + a->bar / 2, y = a->top + PANEL + 14;
    size_t letters = strcspn(row->name, "0123456789");
    const char *text = row->depth && row->name[letters] ? row->name + letters : row->name;
    if (row->depth && strlen(text) <= 3)
        fprintf(out, "<text class='%s' x='%.1f' y='%.1f'>%s</text>", a->bar < 14 ? "s" : "x",
                middle, y, text);
    else
        fprintf(out,
                "<text class='r' x='%.1f' y='%.1f' transform='rotate(-45 %.1f %.1f)'>%s</text>",
                middle + 3, y - 2, middle + 3, y - 2, text);
}

/* IN, M, OUT under the blocks' numbers. */
static void put_kind(FILE *out, const ck_explanation *e, const axes *a, size_t first) {
    const ck_row *row = &e->rows[first];
    size_t last = first, letters = strcspn(row->name, "0123456789");
    while (last + 1 < e->row_count && !new_kind(e, last + 1)) last++;
    if (!row->depth || !row->name[letters]) return;
    double left = x_of(e, a, first), right = x_of(e, a, last) + a->bar;
    double y = a->top + PANEL + 20;
    fprintf(out, "<path class='k' d='M%.1f %.1fH%.1f'/>", left, y, right);
    fprintf(out, "<text class='x' x='%.1f' y='%.1f'>%.*s</text>\n", (left + right) / 2, y + 15,
            (int)letters, row->name);
}

static void put_panel(FILE *out, const ck_explanation *e, size_t column) {
    axes a;
    find_axes(e, column, &a);
    a.top = TOP + (double)column * (PANEL + BELOW + 24);
    fprintf(out, "<text class='t' x='%d' y='%.1f'>", LEFT, a.top - 9);
    put_text(out, e->columns[column].name);
    fprintf(out, "</text>\n");
    put_grid(out, &a, x_of(e, &a, e->row_count - 1) + a.step);
    for (size_t i = 0; i < e->row_count; i++) {
        double x = x_of(e, &a, i);
        put_bar(out, &a, &e->rows[i], &e->rows[i].ranges[column], x);
        put_label(out, &a, &e->rows[i], x);
        if (i == 0 || new_kind(e, i)) put_kind(out, e, &a, i);
    }
}

static void put_title(FILE *out, const ck_recipe *r) {
    char text[160];
    fprintf(out, "<text class='h' x='%d' y='24'>", LEFT);
    put_text(out, ck_explain_expression(r, text, sizeof text));
    fprintf(out, "</text>\n<text class='q' x='%d' y='40'>", LEFT);
    for (size_t i = 0; i < r->model_count && i < 4; i++) {
        const char *slash = strrchr(r->models[i].path, '/');
        put_text(out, i ? "   " : "");
        put_text(out, r->models[i].name);
        put_text(out, ": ");
        put_text(out, slash && slash[1] ? slash + 1 : r->models[i].path);
    }
    put_text(out, r->model_count > 4 ? "   ..." : "");
    fprintf(out, "</text>\n");
}

void ck_explanation_svg(const ck_explanation *e, FILE *out) {
    size_t panels = e->column_count;
    axes a = {0};
    find_axes(e, 0, &a);
    int height = TOP + (int)panels * (PANEL + BELOW + 24) - 16;
    int width = (int)ceil(x_of(e, &a, e->row_count - 1) + a.step) + RIGHT;
    if (width < 420) width = 420; /* room for the title */
    fprintf(out,
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d' width='%d' height='%d'>\n"
            "<style>text{font:12px sans-serif;fill:#333}.h{font-size:15px;font-weight:bold}"
            ".q{fill:#777}.t{font-weight:bold}.y,.r{text-anchor:end}.x,.s{text-anchor:middle}"
            ".x{font-size:11px}.s{font-size:8px}.r{font-size:11px}.n{fill:#f3f5f8}.b{fill:#3b6fb6}"
            ".o{fill:#8a6bb1}.d{fill:#9aa4b2}.g,.z,.k,.w,.e{fill:none}.g{stroke:#dde2e8}"
            ".z{stroke:#667}.k{stroke:#99a}.w{stroke:#222}.e{stroke:#b4bcc8}"
            "</style>\n<rect width='100%%' height='100%%' fill='#fff'/>\n",
            width, height, width, height);
    put_title(out, e->plan->recipe);
    for (size_t c = 0; c < panels; c++) put_panel(out, e, c);
    fputs("</svg>\n", out);
}
