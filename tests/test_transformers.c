/* SD3's transformer and FLUX's: what is computed again for the backward pass has the same bits as
 * what was kept. (Their answers and gradients against diffusers': tests/interop/check_models.py;
 * whole pipelines: test_pipelines.c.) */
#include "tests/ok.h"

#include "distill/engine/backend.h"
#include "distill/models/flux.h"
#include "distill/models/mmdit.h"
#include "kernels/philox.h"

#include <stdlib.h>
#include <string.h>

enum { N = 1, H = 16, W = 12, TOKENS = 3 };

typedef struct inputs {
    ck_node x, time, context, pooled, guidance;
} inputs;

static ck_node mmdit(ck_graph *g, ck_params *p, const inputs *in, bool checkpoint) {
    const ck_mmdit_config c = {.in_channels = 4,
                               .out_channels = 4,
                               .patch = 2,
                               .layers = 3,
                               .heads = 2,
                               .width = 16,
                               .context = 12,
                               .pooled = 10,
                               .positions = 8,
                               .normed = true,
                               .dual = {true},
                               .checkpoint = checkpoint};
    return ck_mmdit(
        g, p, &c,
        &(ck_mmdit_inputs){
            .x = in->x, .time = in->time, .context = in->context, .pooled = in->pooled});
}

static ck_node flux(ck_graph *g, ck_params *p, const inputs *in, bool checkpoint) {
    const ck_flux_config c = {.in_channels = 4,
                              .out_channels = 4,
                              .layers = 2,
                              .single_layers = 2,
                              .heads = 2,
                              .width = 16,
                              .context = 12,
                              .pooled = 10,
                              .axes = {2, 2, 4},
                              .guidance = true,
                              .checkpoint = checkpoint};
    return ck_flux(g, p, &c,
                   &(ck_flux_inputs){.x = in->x,
                                     .time = in->time,
                                     .context = in->context,
                                     .pooled = in->pooled,
                                     .guidance = in->guidance});
}

typedef ck_node network(ck_graph *g, ck_params *p, const inputs *in, bool checkpoint);

typedef struct result {
    float *numbers; /* the loss and all gradients */
    size_t n, peak;
} result;

static void write_noise(ck_exec *e, ck_node node, ck_shape shape, uint32_t which) {
    size_t n = (size_t)ck_shape_count(&shape);
    float *x = malloc(n * sizeof *x);
    ck_philox_fill_normal(3, which, 0, 0, n, x);
    ok(ck_exec_write(e, node, x, n, &err));
    free(x);
}

static void write_inputs(ck_exec *e, const ck_graph *g, const inputs *in) {
    write_noise(e, in->x, ck_node_shape(g, in->x), 1);
    write_noise(e, in->context, ck_node_shape(g, in->context), 2);
    write_noise(e, in->pooled, ck_node_shape(g, in->pooled), 3);
    ok(ck_exec_write(e, in->time, (float[]){500}, N, &err));
    ok(ck_exec_write(e, in->guidance, (float[]){3.5f}, N, &err));
}

/* Weights that a gradient comes to: not SD3's table of places. */
static size_t list_weights(const ck_graph *g, ck_node *weights) {
    size_t n = 0;
    for (size_t i = 0; i < g->count; i++)
        if (g->nodes[i].op == CK_OP_PARAM && strcmp(g->nodes[i].name, "pos_embed.pos_embed") != 0)
            weights[n++] = (ck_node)i;
    return n;
}

static result differentiate(network *make, bool checkpoint) {
    enum { MOST = 512 };
    ck_node weights[MOST], outputs[MOST + 1];
    const ck_backend *b;
    ck_exec *e;
    ck_params *p = ck_params_new(1);
    ck_graph *g = ck_graph_new();
    inputs in = {ck_input(g, "x", CK_F32, CK_SHAPE(N, H, W, 4)),
                 ck_input(g, "time", CK_F32, CK_SHAPE(N)),
                 ck_input(g, "context", CK_F32, CK_SHAPE(N, TOKENS, 12)),
                 ck_input(g, "pooled", CK_F32, CK_SHAPE(N, 10)),
                 ck_input(g, "guidance", CK_F32, CK_SHAPE(N))};
    ck_node out = make(g, p, &in, checkpoint);
    size_t count = list_weights(g, weights);
    assert_true(count > 20 && count <= MOST);
    outputs[0] = ck_mean(g, ck_mul(g, out, out));
    ok(ck_gradients(g, outputs[0], weights, count, outputs + 1, &err));
    ok(ck_backend_open("cpu", &b, &err));
    ok(ck_exec_new(b, g, outputs, count + 1, &e, &err));
    ok(ck_exec_allocate(e, 0, &err));
    write_inputs(e, g, &in);
    ok(ck_exec_run(e, &err));
    result r = {.peak = ck_exec_peak(e)};
    for (size_t i = 0; i <= count; i++) {
        ck_shape s = ck_node_shape(g, outputs[i]);
        size_t n = (size_t)ck_shape_count(&s);
        r.numbers = realloc(r.numbers, (r.n + n) * sizeof *r.numbers);
        ok(ck_exec_read(e, outputs[i], r.numbers + r.n, n, &err));
        r.n += n;
    }
    ck_exec_free(e), ck_graph_free(g), ck_params_free(p);
    return r;
}

static void check(network *make) {
    result kept = differentiate(make, false), again = differentiate(make, true);
    assert_int_equal(kept.n, again.n);
    assert_memory_equal(kept.numbers, again.numbers, kept.n * sizeof *kept.numbers);
    assert_true(kept.numbers[0] > 0);
    assert_true(again.peak < kept.peak);
    free(kept.numbers), free(again.numbers);
}

static void test_mmdit(void **state) {
    (void)state;
    check(mmdit);
}

static void test_flux(void **state) {
    (void)state;
    check(flux);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mmdit),
        cmocka_unit_test(test_flux),
    };
    return cmocka_run_group_tests_name("transformers", tests, NULL, NULL);
}
