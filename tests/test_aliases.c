/* Names in both layouts: what the same name means in a model and in its other layout are the same
 * bytes, and every tensor is known by its name there. */
#include "io/aliases.h"
#include "io/layout.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/layouts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct names {
    const ck_reader *reader;
    ck_alias *items;
    size_t count;
} names;

static ck_status collect(void *context, const ck_alias *alias, ck_error *err) {
    names *n = context;
    (void)err;
    n->items = realloc(n->items, (n->count + 1) * sizeof *n->items);
    n->items[n->count] = *alias;
    n->items[n->count++].name = strdup(alias->name);
    return CK_OK;
}

static int by_name(const void *a, const void *b) {
    const ck_alias *x = a, *y = b;
    if (x->part != y->part) return x->part < y->part ? -1 : 1;
    return strcmp(x->name, y->name);
}

static names names_of(const ck_reader *r) {
    names n = {.reader = r};
    ck_error err;
    if (ck_aliases_of(r, collect, &n, &err) != CK_OK) fail_msg("%s", err.message);
    qsort(n.items, n.count, sizeof *n.items, by_name);
    return n;
}

static void names_free(names *n) {
    for (size_t i = 0; i < n->count; i++) free((void *)(uintptr_t)n->items[i].name);
    free(n->items);
}

/* The rows that both have; returns how many. */
static uint64_t compare(const names *a, const ck_alias *x, const names *b, const ck_alias *y) {
    uint64_t begin = x->name_row > y->name_row ? x->name_row : y->name_row;
    uint64_t end_x = x->name_row + x->rows, end_y = y->name_row + y->rows;
    uint64_t end = end_x < end_y ? end_x : end_y;
    if (begin >= end) return 0;
    uint64_t row = x->tensor->shape[0] ? x->tensor->nbytes / x->tensor->shape[0] : 0;
    size_t n = (size_t)((end - begin) * row);
    unsigned char *p = malloc(n + 1), *q = malloc(n + 1);
    ck_error err;
    assert_int_equal(ck_reader_read(a->reader, x->tensor,
                                    (x->tensor_row + begin - x->name_row) * row, p, n, &err),
                     CK_OK);
    assert_int_equal(ck_reader_read(b->reader, y->tensor,
                                    (y->tensor_row + begin - y->name_row) * row, q, n, &err),
                     CK_OK);
    if (memcmp(p, q, n) != 0)
        fail_msg("'%s': '%s' and '%s' differ", x->name, x->tensor->name, y->tensor->name);
    free(p);
    free(q);
    return end - begin;
}

/* Every tensor of b with a name of its own must be found in a under it, whole. */
static void check_known(const names *a, const names *b) {
    size_t shared = 0;
    for (size_t i = 0; i < b->count; i++) {
        const ck_alias *y = &b->items[i];
        size_t n = strlen(y->tensor->name), m = strlen(y->name);
        bool own = n >= m && strcmp(y->tensor->name + n - m, y->name) == 0;
        if (!ck_part_is_model(y->part) || !y->tensor->rank || !own) continue;
        const ck_alias *x = bsearch(y, a->items, a->count, sizeof *y, by_name);
        if (!x && strstr(y->name, "text_projection")) continue; /* transposed */
        if (!x) fail_msg("'%s' is not known", y->tensor->name);
        while (x > a->items && by_name(x - 1, y) == 0) x--;
        uint64_t rows = 0, whole = 0;
        for (; x < a->items + a->count && by_name(x, y) == 0; x++) {
            uint64_t same = compare(a, x, b, y);
            /* The same name may be listed twice. */
            if (same == y->rows) whole = same;
            rows += same;
        }
        if (rows < y->rows && !whole) fail_msg("'%s' is not all there", y->tensor->name);
        shared++;
    }
    assert_true(shared > 100);
}

static void test_both_layouts(void **state) {
    (void)state;
    static const char *const cases[] = {"sd1 file", "sd2 file", "sdxl file", "sd3-medium file",
                                        "flux-dev file"};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        layout l;
        const layout_case *found = layout_case_named(cases[c]);
        if (!found) fail_msg("no layout '%s'", cases[c]);
        layout_make(&l, found, true);
        ck_reader *a = layout_reader(&l), *b;
        layout_free(&l);
        ck_error err;
        if (ck_layout_convert(a, CK_LAYOUT_DIFFUSERS, CK_UNUSED_KEEP, &b, NULL, &err) != CK_OK)
            fail_msg("%s", err.message);
        names x = names_of(a), y = names_of(b);
        check_known(&x, &y);
        check_known(&y, &x);
        names_free(&x);
        names_free(&y);
        ck_reader_close(b);
        ck_reader_close(a);
    }
}

static ck_status stop(void *context, const ck_alias *alias, ck_error *err) {
    ++*(int *)context;
    return ck_fail(err, CK_INPUT, "enough of %s", alias->name);
}

static void test_stops(void **state) {
    (void)state;
    layout l;
    layout_make(&l, layout_case_named("sd1 file"), true);
    ck_reader *r = layout_reader(&l);
    layout_free(&l);
    ck_error err;
    int seen = 0;
    assert_int_equal(ck_aliases_of(r, stop, &seen, &err), CK_INPUT);
    assert_int_equal(seen, 1);
    for (fault_first(FAULT_CALLOC, ENOMEM); fault_more();) {
        fault_arm();
        ck_status status = ck_aliases_of(r, stop, &seen, &err);
        fault_disarm();
        assert_int_equal(status, fault_hit() ? CK_MEMORY : CK_INPUT);
    }
    ck_reader_close(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_layouts),
        cmocka_unit_test(test_stops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
