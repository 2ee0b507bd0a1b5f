/* cktool diff: how far two models are apart, tensor by tensor and part by part. */
#include "io/os.h"
#include "io/progress.h"
#include "io/utf8.h"
#include "kernels/kernels.h"
#include "merge/tool.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool json, quiet, tensors;

static const ck_option options[] = {
    {.name = "tensors",
     .letter = 't',
     .type = CK_OPT_FLAG,
     .value = &tensors,
     .help = "also list every tensor that differs"},
    {.name = "json",
     .type = CK_OPT_FLAG,
     .value = &json,
     .help = "as one JSON document, with tensors"},
    {.name = "quiet", .letter = 'q', .type = CK_OPT_FLAG, .value = &quiet, .help = "no progress"},
    {0},
};

static const ck_command command = {
    .name = "cktool diff",
    .summary = "compare two models: max |d|, relative L2 distance, cosine",
    .synopsis = "[--tensors] [--json] A B",
    .details =
        "For every part of the model (unet, vae, text encoder, ...) and for all of it: how many "
        "tensors are equal, the largest difference of two values, the length of the "
        "difference over the length of A, and the cosine of the angle between A and B. Values "
        "are compared as f32, so the types may differ. What is NaN in both, or the same "
        "infinity, is equal. The exit status is 0 also when the models differ.",
    .options = options,
    .examples = "$ cktool diff base.safetensors tuned.safetensors\n"
                "  which parts were trained?",
    .files = true,
};

/* Sums over compared values. */
typedef struct distance {
    double max, dd, aa, bb, ab;
} distance;

/* One line of the report: a tensor, a part or the whole. */
typedef struct row {
    char name[64];
    uint64_t tensors, equal, unlike; /* unlike: shape differs or not float, not compared */
    distance d;
} row;

enum { BLOCK = 1 << 16, MAX_GROUPS = 64 };

static void add(distance *to, distance d) {
    if (d.max > to->max || isnan(d.max)) to->max = d.max; /* a NaN stays */
    to->dd += d.dd;
    to->aa += d.aa;
    to->bb += d.bb;
    to->ab += d.ab;
}

/* Sums in f64 in eight lanes, so that the compiler can use vectors; always in the same order, so
 * that the result is always the same. */
static distance strip_distance(const float *a, const float *b, size_t n) {
    enum { LANES = 8 };
    double dd[LANES] = {0}, aa[LANES] = {0}, bb[LANES] = {0}, ab[LANES] = {0}, max[LANES] = {0};
    double nan[LANES] = {0};
    for (size_t i = 0; i < n; i += LANES) {
#pragma omp simd
        for (size_t l = 0; l < LANES; l++) {
            double x = (double)a[i + l], y = (double)b[i + l];
            /* The same infinity or NaN in both is no difference. */
            bool same = (x == y) | ((x != x) & (y != y)), finite = x - x + (y - y) == 0;
            double d = same ? 0 : fabs(x - y);
            max[l] = d > max[l] ? d : max[l];
            nan[l] = d == d ? nan[l] : 1;
            x = finite ? x : 0;
            y = finite ? y : 0;
            dd[l] += d * d;
            aa[l] += x * x;
            bb[l] += y * y;
            ab[l] += x * y;
        }
    }
    distance r = {0};
    for (size_t l = 0; l < LANES; l++)
        add(&r, (distance){nan[l] != 0 ? (double)NAN : max[l], dd[l], aa[l], bb[l], ab[l]});
    return r;
}

/* What comparing one tensor of A with its namesake in B found. */
typedef struct comparison {
    const ck_tensor *a, *b; /* b NULL: only in A */
    bool values;            /* compared as numbers; else byte by byte, or not at all */
    bool equal;
    const char *state;
    distance d;
} comparison;

typedef struct buffers {
    unsigned char *a, *b;
} buffers;

/* Room behind a strip for whole lanes; the padding is zero in both, which adds nothing. */
enum { PADDED_STRIP = CK_STRIP + 8 };

static ck_status compare_values(const ck_reader *ra, const ck_reader *rb, comparison *c,
                                buffers buf, ck_progress *p, ck_error *err) {
    const ck_kernels *k = ck_kernels_best();
    if (!k) return ck_fail(err, CK_USAGE, "CK_ISA names no instruction set of this processor");
    const ck_tensor *a = c->a, *b = c->b;
    size_t size_a = ck_dtype_bits(a->dtype) / 8, size_b = ck_dtype_bits(b->dtype) / 8;
    for (uint64_t at = 0; at < a->elements;) {
        size_t n = a->elements - at < BLOCK ? (size_t)(a->elements - at) : BLOCK;
        CK_TRY(ck_reader_read(ra, a, at * size_a, buf.a, n * size_a, err));
        CK_TRY(ck_reader_read(rb, b, at * size_b, buf.b, n * size_b, err));
        for (size_t i = 0; i < n; i += CK_STRIP) {
            float x[PADDED_STRIP], y[PADDED_STRIP];
            size_t strip = n - i < CK_STRIP ? n - i : CK_STRIP;
            k->decode[a->dtype](x, buf.a + i * size_a, strip);
            k->decode[b->dtype](y, buf.b + i * size_b, strip);
            memset(x + strip, 0, 8 * sizeof *x);
            memset(y + strip, 0, 8 * sizeof *y);
            add(&c->d, strip_distance(x, y, strip));
        }
        at += n;
        ck_progress_add(p, n * size_a);
    }
    c->equal = c->d.max == 0;
    return CK_OK;
}

/* Tensors that are not floats are compared by their bytes. */
static ck_status compare_bytes(const ck_reader *ra, const ck_reader *rb, comparison *c, buffers buf,
                               ck_progress *p, ck_error *err) {
    c->equal = true;
    for (uint64_t at = 0; at < c->a->nbytes && c->equal;) {
        size_t n = c->a->nbytes - at < BLOCK ? (size_t)(c->a->nbytes - at) : BLOCK;
        CK_TRY(ck_reader_read(ra, c->a, at, buf.a, n, err));
        CK_TRY(ck_reader_read(rb, c->b, at, buf.b, n, err));
        c->equal = memcmp(buf.a, buf.b, n) == 0;
        at += n;
        ck_progress_add(p, n);
    }
    return CK_OK;
}

static bool same_shape(const ck_tensor *a, const ck_tensor *b) {
    return a->rank == b->rank && memcmp(a->shape, b->shape, a->rank * sizeof *a->shape) == 0;
}

static ck_status compare_tensor(const ck_reader *ra, const ck_reader *rb, comparison *c,
                                buffers buf, ck_progress *p, ck_error *err) {
    const ck_tensor *a = c->a, *b = c->b;
    bool shapes = same_shape(a, b);
    c->values = shapes && ck_dtype_is_float(a->dtype) && ck_dtype_is_float(b->dtype);
    c->state = "differs";
    if (c->values)
        CK_TRY(compare_values(ra, rb, c, buf, p, err));
    else if (shapes && a->dtype == b->dtype)
        CK_TRY(compare_bytes(ra, rb, c, buf, p, err));
    else
        c->state = shapes ? "type" : "shape";
    if (c->equal) c->state = "equal";
    return CK_OK;
}

typedef struct report {
    row groups[MAX_GROUPS + 1]; /* the last one takes the rest when there are too many */
    size_t group_count;
    row whole;
    uint64_t only_a, only_b, retyped;
    cJSON *list; /* of tensors, for --json */
} report;

static row *group_of(report *r, const char *tensor) {
    char buf[64];
    const char *name = ck_tool_group(tensor, buf, sizeof buf);
    for (size_t i = 0; i < r->group_count; i++)
        if (strcmp(r->groups[i].name, name) == 0) return &r->groups[i];
    if (r->group_count <= MAX_GROUPS) {
        row *g = &r->groups[r->group_count++];
        snprintf(g->name, sizeof g->name, "%s", r->group_count > MAX_GROUPS ? "others" : name);
        return g;
    }
    return &r->groups[MAX_GROUPS];
}

static double relative(distance d) {
    return d.aa > 0 ? sqrt(d.dd / d.aa) : d.dd > 0 ? INFINITY : 0;
}

static double cosine(distance d) {
    return d.aa > 0 && d.bb > 0 ? d.ab / sqrt(d.aa) / sqrt(d.bb) : d.dd > 0 ? 0 : 1;
}

static bool add_distance(cJSON *object, distance d) {
    /* JSON has no infinity or NaN: null. */
    const double values[] = {d.max, relative(d), cosine(d)};
    const char *const names[] = {"max", "relative_l2", "cosine"};
    bool ok = true;
    for (int i = 0; i < 3 && ok; i++)
        ok = isfinite(values[i]) ? cJSON_AddNumberToObject(object, names[i], values[i]) != NULL
                                 : cJSON_AddNullToObject(object, names[i]) != NULL;
    return ok;
}

static void print_tensor(const comparison *c) {
    char text[1024], other[256];
    printf("%-10s ", c->state);
    if (c->values)
        printf("max %.4g  relative %.4g  cosine %.8f  ", c->d.max, relative(c->d), cosine(c->d));
    fputs(ck_printable(text, sizeof text, c->a->name), stdout);
    if (c->b && c->b->dtype != c->a->dtype)
        printf("  %s -> %s", ck_dtype_name(c->a->dtype), ck_dtype_name(c->b->dtype));
    if (c->b && !same_shape(c->a, c->b))
        printf("  %s -> %s", ck_tensor_shape_text(c->a, text, sizeof text),
               ck_tensor_shape_text(c->b, other, sizeof other));
    putchar('\n');
}

static bool add_types(cJSON *object, const comparison *c) {
    return cJSON_AddStringToObject(object, "dtype_a", ck_dtype_name(c->a->dtype)) &&
           cJSON_AddStringToObject(object, "dtype_b", ck_dtype_name(c->b->dtype));
}

/* One tensor, to the list for JSON or, if asked for, printed. */
static ck_status report_tensor(report *r, const comparison *c, ck_error *err) {
    bool retyped = c->b && c->b->dtype != c->a->dtype;
    if (r->list) {
        cJSON *object = ck_tool_add_object(r->list);
        bool ok = cJSON_AddStringToObject(object, "name", c->a->name) &&
                  cJSON_AddStringToObject(object, "state", c->state) &&
                  (!c->values || add_distance(object, c->d)) && (!retyped || add_types(object, c));
        return ok ? CK_OK : ck_fail_memory(err, "report");
    }
    if (tensors && (!c->equal || retyped)) print_tensor(c);
    return CK_OK;
}

static ck_status note(report *r, const comparison *c, ck_error *err) {
    row *rows[] = {group_of(r, c->a->name), &r->whole};
    for (int i = 0; i < 2; i++) {
        rows[i]->tensors++;
        rows[i]->equal += c->equal;
        rows[i]->unlike += !c->values && !c->equal;
        add(&rows[i]->d, c->d);
    }
    r->retyped += c->a->dtype != c->b->dtype;
    return report_tensor(r, c, err);
}

/* Tensors of one file that the other lacks. */
static ck_status list_only(report *r, const ck_reader *in, const ck_reader *other,
                           const char *state, uint64_t *count, ck_error *err) {
    for (size_t i = 0; i < ck_reader_count(in); i++) {
        const ck_tensor *t = ck_reader_tensor(in, i);
        if (ck_reader_find(other, t->name)) continue;
        ++*count;
        CK_TRY(report_tensor(r, &(comparison){.a = t, .state = state}, err));
    }
    return CK_OK;
}

static void print_row(const row *g) {
    char name[sizeof g->name];
    printf("%-14s %6" PRIu64 " tensors, %6" PRIu64 " equal",
           ck_printable(name, sizeof name, g->name), g->tensors, g->equal);
    if (g->unlike) printf(", %" PRIu64 " not comparable", g->unlike);
    if (g->equal + g->unlike < g->tensors)
        printf("; max |d| %.4g, relative L2 %.4g, cosine %.8f", g->d.max, relative(g->d),
               cosine(g->d));
    putchar('\n');
}

static bool same_values(const report *r) {
    return !r->only_a && !r->only_b && r->whole.equal == r->whole.tensors;
}

static void print_text(const report *r) {
    for (size_t i = 0; i < r->group_count; i++) print_row(&r->groups[i]);
    if (r->group_count > 1) print_row(&r->whole);
    if (r->only_a) printf("%" PRIu64 " tensors are only in A\n", r->only_a);
    if (r->only_b) printf("%" PRIu64 " tensors are only in B\n", r->only_b);
    if (r->retyped) printf("%" PRIu64 " tensors have another type\n", r->retyped);
    if (same_values(r))
        puts(r->retyped ? "every tensor has the same values"
                        : "identical: every tensor has the same values");
}

static bool add_row(cJSON *list, const row *g) {
    cJSON *object = ck_tool_add_object(list);
    return cJSON_AddStringToObject(object, "name", g->name) &&
           cJSON_AddNumberToObject(object, "tensors", (double)g->tensors) &&
           cJSON_AddNumberToObject(object, "equal", (double)g->equal) &&
           cJSON_AddNumberToObject(object, "not_comparable", (double)g->unlike) &&
           add_distance(object, g->d);
}

static bool finish_json(cJSON *root, const report *r) {
    cJSON *groups = cJSON_AddArrayToObject(root, "groups");
    bool ok = groups && cJSON_AddNumberToObject(root, "only_a", (double)r->only_a) &&
              cJSON_AddNumberToObject(root, "only_b", (double)r->only_b) &&
              cJSON_AddNumberToObject(root, "retyped", (double)r->retyped) &&
              cJSON_AddBoolToObject(root, "identical", same_values(r) && !r->retyped);
    for (size_t i = 0; i < r->group_count && ok; i++) ok = add_row(groups, &r->groups[i]);
    return ok && add_row(groups, &r->whole);
}

/* Fills in all comparisons, several tensors at a time. */
static ck_status compare_tensors(const ck_reader *ra, const ck_reader *rb, comparison *list,
                                 size_t n, ck_progress *p, ck_error *err) {
    enum { ELEMENT = 8 };
    ck_status status = CK_OK;
#pragma omp parallel
    {
        buffers buf = {ck_alloc(BLOCK * ELEMENT), ck_alloc(BLOCK * ELEMENT)};
        ck_error mine;
#pragma omp for schedule(dynamic, 1)
        for (size_t i = 0; i < n; i++) {
            ck_status s = !list[i].b       ? CK_OK
                          : buf.a && buf.b ? compare_tensor(ra, rb, &list[i], buf, p, &mine)
                                           : ck_fail_memory(&mine, "diff");
            if (s == CK_OK) continue;
#pragma omp critical
            {
                status = s;
                *err = mine;
            }
        }
        free(buf.a);
        free(buf.b);
    }
    return status;
}

static ck_status compare_all(report *r, const ck_reader *ra, const ck_reader *rb, ck_error *err) {
    uint64_t bytes = 0;
    size_t n = ck_reader_count(ra);
    comparison *list = ck_alloc_array(n, sizeof *list);
    if (!list) return ck_fail_memory(err, "diff");
    for (size_t i = 0; i < n; i++) {
        list[i].a = ck_reader_tensor(ra, i);
        list[i].b = ck_reader_find(rb, list[i].a->name);
        bytes += list[i].b ? list[i].a->nbytes : 0;
    }
    ck_progress p;
    ck_progress_start(&p, "comparing", bytes, quiet);
    ck_status status = compare_tensors(ra, rb, list, n, &p, err);
    ck_progress_end(&p);
    for (size_t i = 0; i < n && status == CK_OK; i++)
        if (list[i].b) status = note(r, &list[i], err);
    free(list);
    CK_TRY(status);
    CK_TRY(list_only(r, ra, rb, "only in A", &r->only_a, err));
    return list_only(r, rb, ra, "only in B", &r->only_b, err);
}

static ck_status run(const char *const *operands, size_t count, ck_error *err) {
    (void)count;
    ck_reader *ra = NULL, *rb = NULL;
    cJSON *root = json ? cJSON_CreateObject() : NULL;
    report *r = ck_alloc(sizeof *r);
    ck_status status = r ? CK_OK : ck_fail_memory(err, "diff");
    if (status == CK_OK) {
        snprintf(r->whole.name, sizeof r->whole.name, "all");
        if (json && !(r->list = cJSON_AddArrayToObject(root, "tensors")))
            status = ck_fail_memory(err, "report");
    }
    if (status == CK_OK) status = ck_reader_open(operands[0], &ra, err);
    if (status == CK_OK) status = ck_reader_open(operands[1], &rb, err);
    if (status == CK_OK) status = compare_all(r, ra, rb, err);
    if (status == CK_OK && json) {
        status = ck_tool_print_json(root, finish_json(root, r), err);
        root = NULL;
    } else if (status == CK_OK) {
        print_text(r);
    }
    cJSON_Delete(root);
    ck_reader_close(ra);
    ck_reader_close(rb);
    free(r);
    return status;
}

const ck_tool ck_tool_diff = {
    .command = &command, .min_operands = 2, .max_operands = 2, .run = run};
