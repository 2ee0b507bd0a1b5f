/* See parity.h. */
#include "tests/parity.h"

#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

static void ok(ck_status s, const ck_error *err) {
    if (s != CK_OK) print_error("%s\n", err->message);
    assert_int_equal(s, CK_OK);
}

void *parity_tensor(const ck_reader *r, const char *name, size_t *n) {
    ck_error err;
    const ck_tensor *t = ck_reader_find(r, name);
    assert_non_null(t);
    void *data = malloc(t->nbytes);
    ok(ck_reader_read(r, t, 0, data, t->nbytes, &err), &err);
    *n = t->elements;
    return data;
}

float *parity_image(const ck_reader *r, const char *name, size_t c, size_t area, size_t *n) {
    float *nchw = parity_tensor(r, name, n), *nhwc = malloc(*n * sizeof *nhwc);
    for (size_t i = 0; i < *n; i++)
        nhwc[(i / (c * area) * area + i % area) * c + i / area % c] = nchw[i];
    free(nchw);
    return nhwc;
}

ck_exec *parity_run(ck_graph *g, const ck_node *outputs, size_t count, const ck_node *inputs,
                    const void *const *data, const size_t *n, size_t input_count) {
    const ck_backend *b;
    ck_exec *e;
    ck_error err;
    ok(ck_graph_check(g, &err), &err);
    ok(ck_backend_open("cpu", &b, &err), &err);
    ok(ck_exec_new(b, g, outputs, count, &e, &err), &err);
    ok(ck_exec_allocate(e, 0, &err), &err);
    for (size_t i = 0; i < input_count; i++)
        ok(ck_exec_write(e, inputs[i], data[i], n[i], &err), &err);
    ok(ck_exec_run(e, &err), &err);
    return e;
}

double parity_off(const ck_exec *e, ck_node node, const float *want, size_t n) {
    ck_error err;
    float *got = malloc(n * sizeof *got);
    double off = 0, size = 0;
    ok(ck_exec_read(e, node, got, n, &err), &err);
    for (size_t i = 0; i < n; i++) {
        off = fmax(off, fabs((double)got[i] - want[i]));
        size = fmax(size, fabs((double)want[i]));
    }
    free(got);
    return off / size;
}
