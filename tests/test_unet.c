/* The UNet against PyTorch, on a real model: what it answers, every gradient, ten steps of AdamW.
 * tests/data/parity was computed by torch 2.15 and diffusers 0.42 from tests/data/models/base. */
#include "tests/ok.h"

#include "distill/engine/backend.h"
#include "distill/engine/optimizer.h"
#include "distill/engine/resident.h"
#include "distill/models/unet.h"
#include "io/json.h"
#include "io/os.h"
#include "io/view.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL  "tests/data/models/base/unet/diffusion_pytorch_model.safetensors"
#define CONFIG "tests/data/models/base/unet/config.json"
#define PARITY "tests/data/parity/unet.safetensors"

enum { N = 4, C = 4, H = 16, W = 16, T = 16, D = 64, SIZE = N * C * H * W, MOST = 512 };

/* A tensor of the reference, in f32. */
static float *reference(const ck_reader *r, const char *name) {
    const ck_tensor *t = ck_reader_find(r, name);
    assert_non_null(t);
    assert_true(t->dtype == CK_F32 || t->dtype == CK_I64);
    float *data = malloc(t->nbytes);
    ok(ck_reader_read(r, t, 0, data, t->nbytes, &err));
    if (t->dtype == CK_I64)
        for (size_t i = 0; i < t->elements; i++) data[i] = (float)((const int64_t *)data)[i];
    return data;
}

static void to_nhwc(const float *nchw, float *nhwc) {
    for (int n = 0; n < N; n++)
        for (int c = 0; c < C; c++)
            for (int i = 0; i < H * W; i++)
                nhwc[(n * H * W + i) * C + c] = nchw[(n * C + c) * H * W + i];
}

/* The largest difference, relative to the largest value of the reference. */
static double difference(const float *a, const float *b, size_t n) {
    double most = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)a[i] - b[i]));
        size = fmax(size, fabs((double)b[i]));
    }
    return most / size;
}

typedef struct model {
    ck_unet_config config;
    ck_params *params;
    ck_graph *graph;
    ck_node x, time, context, target, out, loss;
    ck_node weights[MOST], outputs[MOST + 2];
    size_t count;
    const ck_backend *backend;
    ck_resident *resident; /* NULL: weights are where the params have them */
    ck_exec *exec;
} model;

/* What computes; in test-gpu the others are a card. How far off results may be: f32 sums in another
 * order than torch's, through some sixty layers; and with numbers of 8 bits (2e-3) between those.
 */
static const struct {
    const char *name;
    double forward, gradient, loss, step;
} backends[] = {
    {"cpu", 2e-5, 2e-4, 1e-5, 1e-3},
    {"cuda", 2e-5, 2e-4, 1e-5, 1e-3},
    {"cuda-bf16", 2e-2, 1e-1, 1e-2, 3e-2},
};
enum { BACKENDS = sizeof backends / sizeof *backends };

/* Forward, loss and all gradients, with the reference's inputs written. */
static void open_model(model *m, const char *backend, bool checkpoint) {
    *m = (model){0};
    ok(ck_unet_read(CONFIG, &m->config, &err));
    m->config.checkpoint = checkpoint;
    ok(ck_params_open(MODEL, "", &m->params, &err));
    ck_graph *g = m->graph = ck_graph_new();
    m->x = ck_input(g, "x", CK_F32, CK_SHAPE(N, H, W, C));
    m->time = ck_input(g, "time", CK_F32, CK_SHAPE(N));
    m->context = ck_input(g, "context", CK_F32, CK_SHAPE(N, T, D));
    m->target = ck_input(g, "target", CK_F32, CK_SHAPE(N, H, W, C));
    m->out = ck_unet(g, m->params, &m->config,
                     &(ck_unet_inputs){.x = m->x, .time = m->time, .context = m->context});
    ok(ck_graph_check(g, &err));
    ck_node off = ck_sub(g, m->out, m->target);
    m->loss = ck_mean(g, ck_mul(g, off, off));
    for (size_t i = 0; i < g->count; i++)
        if (g->nodes[i].op == CK_OP_PARAM) m->weights[m->count++] = (ck_node)i;
    assert_int_equal(m->count, ck_params_count(m->params));
    m->outputs[0] = m->out, m->outputs[1] = m->loss;
    ok(ck_gradients(g, m->loss, m->weights, m->count, m->outputs + 2, &err));
    ok(ck_backend_open(backend, &m->backend, &err));
    ok(ck_exec_new(m->backend, g, m->outputs, m->count + 2, &m->exec, &err));
    if (!m->backend->host) {
        ok(ck_resident_new(m->backend, &m->resident, &err));
        ok(ck_exec_share(m->exec, m->resident, &err));
    }
    ok(ck_exec_allocate(m->exec, 0, &err));
}

static void feed(model *m, const ck_reader *r) {
    float *sample = reference(r, "sample"), *time = reference(r, "timestep");
    float *context = reference(r, "encoder_hidden_states"), *target = reference(r, "target");
    float *nhwc = malloc(SIZE * sizeof *nhwc);
    to_nhwc(sample, nhwc);
    ok(ck_exec_write(m->exec, m->x, nhwc, SIZE, &err));
    to_nhwc(target, nhwc);
    ok(ck_exec_write(m->exec, m->target, nhwc, SIZE, &err));
    ok(ck_exec_write(m->exec, m->time, time, N, &err));
    ok(ck_exec_write(m->exec, m->context, context, (size_t)N * T * D, &err));
    free(sample), free(time), free(context), free(target), free(nhwc);
}

static void close_model(model *m) {
    ck_exec_free(m->exec);
    ck_resident_free(m->resident);
    ck_graph_free(m->graph);
    ck_params_free(m->params);
}

static void check_output(model *m, const ck_reader *r, int b) {
    float *want = reference(r, "out"), *loss = reference(r, "loss"), got_loss;
    float *nhwc = malloc(SIZE * sizeof *nhwc), *got = malloc(SIZE * sizeof *got);
    to_nhwc(want, nhwc);
    ok(ck_exec_read(m->exec, m->out, got, SIZE, &err));
    assert_true(difference(got, nhwc, SIZE) < backends[b].forward);
    ok(ck_exec_read(m->exec, m->loss, &got_loss, 1, &err));
    assert_true(fabs(got_loss - *loss) < backends[b].loss * *loss);
    free(want), free(loss), free(nhwc), free(got);
}

/* Every parameter's, in the layout of files. */
static void check_gradients(model *m, const ck_reader *r, int b) {
    for (size_t i = 0; i < m->count; i++) {
        const ck_graph_node *w = &m->graph->nodes[m->weights[i]];
        char name[256];
        snprintf(name, sizeof name, "grad.%s", w->name);
        float *want = reference(r, name);
        size_t n = (size_t)ck_shape_count(&w->shape);
        float *got = malloc(n * sizeof *got), *file = malloc(n * sizeof *file);
        ok(ck_exec_read(m->exec, m->outputs[2 + i], got, n, &err));
        int64_t k = w->shape.d[0], area = 1, c = (int64_t)n / k;
        if (w->shape.rank == 4) area = w->shape.d[1] * w->shape.d[2], c = w->shape.d[3];
        for (int64_t o = 0; o < k; o++)
            for (int64_t a = 0; a < area; a++)
                for (int64_t j = 0; j < c; j++)
                    file[(o * c + j) * area + a] = got[(o * area + a) * c + j];
        double off = difference(file, want, n);
        if (!(off < backends[b].gradient)) print_error("%s: %g\n", name, off);
        assert_true(off < backends[b].gradient);
        free(want), free(got), free(file);
    }
}

static void test_parity(void **state) {
    (void)state;
    ck_reader *r;
    model m;
    ok(ck_reader_open(PARITY, &r, &err));
    for (int b = 0; b < BACKENDS; b++) {
        open_model(&m, backends[b].name, false);
        feed(&m, r);
        ok(ck_exec_run(m.exec, &err));
        check_output(&m, r, b);
        check_gradients(&m, r, b);
        close_model(&m);
    }
    ck_reader_close(r);
}

/* Less memory, the same bits. */
static void test_checkpointing(void **state) {
    (void)state;
    ck_reader *r;
    model plain, less;
    ok(ck_reader_open(PARITY, &r, &err));
    open_model(&plain, "cpu", false);
    open_model(&less, "cpu", true);
    assert_true(ck_exec_peak(less.exec) < ck_exec_peak(plain.exec));
    feed(&plain, r), feed(&less, r);
    ok(ck_exec_run(plain.exec, &err));
    ok(ck_exec_run(less.exec, &err));
    for (size_t i = 0; i < plain.count + 2; i++) {
        const ck_shape s = ck_node_shape(plain.graph, plain.outputs[i]);
        size_t n = (size_t)ck_shape_count(&s);
        float *a = malloc(n * sizeof *a), *b = malloc(n * sizeof *b);
        ok(ck_exec_read(plain.exec, plain.outputs[i], a, n, &err));
        ok(ck_exec_read(less.exec, less.outputs[i], b, n, &err));
        assert_memory_equal(a, b, n * sizeof *a);
        free(a), free(b);
    }
    close_model(&plain), close_model(&less);
    ck_reader_close(r);
}

/* AdamW, 1e-3, clipped to 1: the losses that torch had. */
static void take_ten_steps(int b, const ck_reader *r, const cJSON *losses) {
    model m;
    open_model(&m, backends[b].name, false);
    feed(&m, r);
    ck_trained trained[MOST];
    for (size_t i = 0; i < m.count; i++) {
        const ck_graph_node *w = &m.graph->nodes[m.weights[i]];
        void *value = ck_exec_pointer(m.exec, m.weights[i]);
        if (m.resident) ok(ck_resident_need(m.resident, m.params, w->param, false, &value, &err));
        trained[i] = (ck_trained){.value = value,
                                  .gradient = ck_exec_pointer(m.exec, m.outputs[2 + i]),
                                  .n = ck_params_elements(m.params, w->param)};
    }
    ck_optimizer *o =
        ck_optimizer_new(m.backend, trained, m.count, (ck_adamw){0.9, 0.999, 1e-8, 0.01});
    double squares[MOST], *there = m.backend->alloc(sizeof squares);
    assert_non_null(o);
    assert_non_null(there);
    for (int i = 0; i < 10; i++) {
        float loss;
        ok(ck_exec_run(m.exec, &err));
        ok(ck_exec_read(m.exec, m.loss, &loss, 1, &err));
        double want = cJSON_GetArrayItem(losses, i)->valuedouble;
        /* AdamW divides by the size of gradients: where they are almost zero, rounding decides
         * the sign of a step. */
        assert_true(fabs(loss - want) < backends[b].step * want);
        ck_optimizer_squares(o, there);
        m.backend->read(squares, there, o->count * sizeof *squares);
        double norm = ck_optimizer_norm(o, squares);
        ck_optimizer_step(o, 1e-3, norm > 1 ? 1 / norm : 1);
        if (m.resident) ck_resident_round(m.resident, m.params, NULL);
    }
    m.backend->free(there);
    ck_optimizer_free(o);
    close_model(&m);
}

static void test_ten_steps(void **state) {
    (void)state;
    ck_json doc;
    ck_reader *r;
    ok(ck_json_load("tests/data/parity/adamw_losses.json", &doc, &err));
    const cJSON *losses = cJSON_GetObjectItem(doc.root, "losses");
    assert_int_equal(cJSON_GetArraySize(losses), 10);
    ok(ck_reader_open(PARITY, &r, &err));
    for (int b = 0; b < BACKENDS; b++) take_ten_steps(b, r, losses);
    ck_reader_close(r);
    ck_json_free(&doc);
}

/* ---- What is refused ---- */

/* The model's config with `field` set to a value, or without it (NULL), in a file. */
static void write_config(const char *path, const char *field, const char *value) {
    ck_json doc;
    ok(ck_json_load(CONFIG, &doc, &err));
    cJSON_DeleteItemFromObjectCaseSensitive(doc.root, field);
    if (value) cJSON_AddItemToObject(doc.root, field, cJSON_Parse(value));
    char *text = cJSON_Print(doc.root);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    free(text);
    ck_json_free(&doc);
}

static void test_configs_refused(void **state) {
    (void)state;
    static const struct {
        const char *field, *value, *message;
    } cases[] = {
        {"_class_name", "\"UNet3DConditionModel\"", "not UNet2DConditionModel"},
        {"brand_new", "1", "$.brand_new: a setting of UNet2DConditionModel that is not known"},
        {"class_embed_type", "\"timestep\"", "$.class_embed_type: not implemented"},
        {"num_attention_heads", "4", "$.num_attention_heads: not implemented"},
        {"down_block_types", "[\"DownBlock2D\", \"AttnDownBlock2D\", \"DownBlock2D\"]",
         "$.down_block_types[1]: not implemented"},
        {"up_block_types", "[\"UpBlock2D\"]", "up_block_types must be a list of 3"},
        {"mid_block_type", "\"UNetMidBlock2DSimpleCrossAttn\"", "$.mid_block_type"},
        {"block_out_channels", NULL, "block_out_channels must be a list"},
        {"block_out_channels", "[32, 40, 64]", "40 channels do not go into groups of 16"},
        {"block_out_channels", "[32, 0, 64]", "must be a whole number from 1"},
        {"attention_head_dim", "5", "heads of 5"},
        {"layers_per_block", "[1, 1]", "$.layers_per_block: must be one number or a list of 3"},
        {"layers_per_block", "17", "$.layers_per_block: must be a whole number from 1 to 15"},
        {"transformer_layers_per_block", "[1, [1, 1], 1]", "$.transformer_layers_per_block"},
        {"reverse_transformer_layers_per_block", "[1, 1]", "must be one number or a list of 3"},
        {"addition_embed_type", "\"image\"", "$.addition_embed_type: not implemented"},
        {"norm_eps", "\"small\"", "$.norm_eps: must be a number"},
    };
    char folder[] = "/tmp/ck-unet-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/config.json", folder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_unet_config c;
        write_config(path, cases[i].field, cases[i].value);
        assert_int_equal(ck_unet_read(path, &c, &err), CK_INPUT);
        if (!strstr(err.message, cases[i].message)) print_error("%s\n", err.message);
        assert_non_null(strstr(err.message, cases[i].message));
        assert_non_null(strstr(err.message, "config.json:"));
    }
    unlink(path);
    rmdir(folder);
}

/* The model's weights but for one: left out (dims 0), or of this shape and value. */
static void expect_weight_refused(const char *name, size_t dims, const uint64_t *shape, float value,
                                  const char *message) {
    ck_reader *file, *view;
    ok(ck_reader_open(MODEL, &file, &err));
    ok(ck_view_new("broken", &view, &err));
    for (size_t i = 0; i < ck_reader_count(file); i++) {
        const ck_tensor *t = ck_reader_tensor(file, i);
        float data[64];
        for (int k = 0; k < 64; k++) data[k] = k == 7 ? value : 0;
        if (strcmp(t->name, name) != 0)
            ok(ck_view_rename(view, t->name, file, t, &err));
        else if (dims)
            ok(ck_view_constant(view, name, CK_F32, dims, shape, data, &err));
    }
    ok(ck_view_finish(view, &err));
    ck_unet_config c;
    ck_params *p;
    ok(ck_unet_read(CONFIG, &c, &err));
    ok(ck_params_from(view, "", &p, &err));
    ck_graph *g = ck_graph_new();
    ck_unet_inputs in = {.x = ck_input(g, "x", CK_F32, CK_SHAPE(1, H, W, C)),
                         .time = ck_input(g, "time", CK_F32, CK_SHAPE(1)),
                         .context = ck_input(g, "context", CK_F32, CK_SHAPE(1, T, D))};
    assert_int_equal(ck_unet(g, p, &c, &in), CK_NONE);
    assert_int_equal(ck_graph_check(g, &err), CK_INPUT);
    if (!strstr(err.message, message)) print_error("%s\n", err.message);
    assert_non_null(strstr(err.message, message));
    assert_non_null(strstr(err.message, name));
    ck_graph_free(g), ck_params_free(p), ck_reader_close(view), ck_reader_close(file);
}

static void test_weights_refused(void **state) {
    (void)state;
    const char *name = "mid_block.resnets.1.norm2.bias";
    expect_weight_refused(name, 0, NULL, 0, "no tensor");
    expect_weight_refused(name, 1, (uint64_t[]){32}, 0, "has shape [32], the model needs [64]");
    expect_weight_refused(name, 1, (uint64_t[]){64}, NAN, "a value is not a number");
    expect_weight_refused(name, 1, (uint64_t[]){64}, INFINITY, "a value is infinite");
}

/* The file with one tensor more, of zeros, or in the place of that of its name: what is said of its
 * header alone. */
static ck_status check_header(const char *name, ck_dtype dtype, uint64_t elements) {
    static const int64_t zeros[64];
    ck_reader *file, *view;
    ck_unet_config c;
    ck_params *p;
    ok(ck_reader_open(MODEL, &file, &err));
    ok(ck_view_new("other", &view, &err));
    for (size_t i = 0; i < ck_reader_count(file); i++) {
        const ck_tensor *t = ck_reader_tensor(file, i);
        if (strcmp(t->name, name) != 0) ok(ck_view_rename(view, t->name, file, t, &err));
    }
    ok(ck_view_constant(view, name, dtype, 1, &elements, zeros, &err));
    ok(ck_view_finish(view, &err));
    ok(ck_unet_read(CONFIG, &c, &err));
    ok(ck_params_from(view, "", &p, &err));
    ck_params_freeze(p, true);
    ck_graph *g = ck_graph_new();
    ck_unet_inputs in = {.x = ck_input(g, "x", CK_F32, CK_SHAPE(1, H, W, C)),
                         .time = ck_input(g, "time", CK_F32, CK_SHAPE(1)),
                         .context = ck_input(g, "context", CK_F32, CK_SHAPE(1, T, D))};
    ck_unet(g, p, &c, &in);
    ck_status s = ck_graph_check(g, &err);
    if (s == CK_OK) s = ck_params_check_asked(p, &err);
    ck_graph_free(g), ck_params_free(p), ck_reader_close(view), ck_reader_close(file);
    return s;
}

/* Marks of how a model was trained, and numbers of places, are no weights. */
static void test_headers(void **state) {
    (void)state;
    assert_int_equal(check_header("mid_block.attentions.7.norm.weight", CK_F32, 64), CK_INPUT);
    assert_non_null(strstr(err.message, "other: tensor 'mid_block.attentions.7.norm.weight' has "
                                        "no place in the network"));
    assert_int_equal(check_header("mid_block.resnets.1.norm2.bias", CK_I32, 64), CK_INPUT);
    assert_non_null(strstr(err.message, "norm2.bias' is I32; a weight is expected"));
    ok(check_header("mid_block.resnets.1.norm2.bias", CK_F16, 64));
    ok(check_header("v_pred", CK_F32, 2));
    ok(check_header("embeddings.position_ids", CK_I64, 2));
}

static void test_inputs_refused(void **state) {
    (void)state;
    static const struct {
        int64_t h, channels, width;
        const char *message;
    } cases[] = {
        {18, C, D, "multiples of 4"},
        {H, 9, D, "takes 4 channels"},
        {H, C, 768, "text of width 64"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_unet_config c;
        ck_params *p;
        ok(ck_unet_read(CONFIG, &c, &err));
        ok(ck_params_open(MODEL, "", &p, &err));
        ck_graph *g = ck_graph_new();
        ck_unet_inputs in = {
            .x = ck_input(g, "x", CK_F32, CK_SHAPE(1, cases[i].h, W, cases[i].channels)),
            .time = ck_input(g, "time", CK_F32, CK_SHAPE(1)),
            .context = ck_input(g, "context", CK_F32, CK_SHAPE(1, T, cases[i].width))};
        assert_int_equal(ck_unet(g, p, &c, &in), CK_NONE);
        assert_int_equal(ck_graph_check(g, &err), CK_USAGE);
        assert_non_null(strstr(err.message, cases[i].message));
        ck_graph_free(g), ck_params_free(p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parity),          cmocka_unit_test(test_checkpointing),
        cmocka_unit_test(test_ten_steps),       cmocka_unit_test(test_configs_refused),
        cmocka_unit_test(test_weights_refused), cmocka_unit_test(test_headers),
        cmocka_unit_test(test_inputs_refused),
    };
    return cmocka_run_group_tests_name("unet", tests, NULL, NULL);
}
