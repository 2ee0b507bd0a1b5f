/* Channels in another order compute the same, and re-basin finds the order back. */
#include "merge/rebasin.h"
#include "distill/engine/backend.h"
#include "distill/models/clip_text.h"
#include "distill/models/unet.h"
#include "distill/models/vae.h"
#include "io/layout.h"
#include "kernels/philox.h"
#include "io/view.h"
#include "tests/ok.h"
#include "tests/parity.h"
#include "tests/fault.h"
#include "tests/fixture.h"
#include "tests/layouts.h"
#include "tests/program.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL "tests/data/models/base/"
#define SHAPE(...)                                                                                 \
    (uint64_t[]) {                                                                                 \
        __VA_ARGS__                                                                                \
    }

/* Of the model in tests/data. Its UNet and its VAE have groups of their own. */
static const ck_channel_sizes unet_sizes = {.heads = 4, .clip_head = 16, .norm_groups = 16};
static const ck_channel_sizes vae_sizes = {.heads = 4, .clip_head = 16, .norm_groups = 8};

static void shuffle(uint32_t *order, size_t n, uint64_t *seed) {
    for (size_t i = 0; i < n; i++) order[i] = (uint32_t)i;
    for (size_t i = n; i > 1; i--) {
        size_t j = fixture_random(seed) % i;
        uint32_t t = order[i - 1];
        order[i - 1] = order[j], order[j] = t;
    }
}

/* A group's name without its component's prefix, which is the same in both layouts. */
static const char *inner_name(const char *name) {
    static const char *const prefixes[] = {"model.diffusion_model.",
                                           "first_stage_model.",
                                           "cond_stage_model.transformer.",
                                           "cond_stage_model.model.",
                                           "conditioner.embedders.0.transformer.",
                                           "conditioner.embedders.1.model.",
                                           "unet.",
                                           "vae.",
                                           "text_encoder.",
                                           "text_encoder_2."};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t n = strlen(prefixes[i]);
        if (strncmp(name, prefixes[i], n) == 0) return name + n;
    }
    return name;
}

/* Any order that the groups allow, made of the seed and the group's name. */
static void shuffle_all(ck_channels *c, uint64_t start) {
    for (size_t g = 0; g < c->group_count; g++) {
        ck_channel_group *group = &c->groups[g];
        uint64_t seed = start;
        for (const char *n = inner_name(group->name); *n; n++)
            seed = (seed ^ (unsigned char)*n) * 0x100000001b3u;
        size_t d = group->size / group->blocks;
        uint32_t *blocks = malloc(group->blocks * sizeof *blocks),
                 *within = malloc(d * sizeof *within);
        shuffle(blocks, group->blocks, &seed);
        for (size_t p = 0; p < group->parts; p++)
            for (size_t b = 0; b < group->blocks; b++) {
                shuffle(within, d, &seed);
                for (size_t i = 0; i < d; i++)
                    group->order[p][b * d + i] = (uint32_t)(blocks[b] * d + within[i]);
            }
        free(blocks), free(within);
    }
}

static ck_reader *shuffled(const ck_reader *model, const ck_channel_sizes *sizes, uint64_t seed) {
    ck_channels *c;
    ck_reader *view;
    ok(ck_channels_open(model, sizes, &c, &err));
    shuffle_all(c, seed);
    ok(ck_channels_view(c, &view, &err));
    ck_channels_free(c);
    return view;
}

static unsigned char *bytes_of(const ck_reader *r, const char *name, size_t *n) {
    const ck_tensor *t = ck_reader_find(r, name);
    assert_non_null(t);
    unsigned char *data = malloc(t->nbytes + 1);
    ok(ck_reader_read(r, t, 0, data, t->nbytes, &err));
    *n = t->nbytes;
    return data;
}

/* How many tensors of a differ in b. */
static size_t differing(const ck_reader *a, const ck_reader *b) {
    size_t count = 0, n, m;
    assert_int_equal(ck_reader_count(a), ck_reader_count(b));
    for (size_t i = 0; i < ck_reader_count(a); i++) {
        const char *name = ck_reader_tensor(a, i)->name;
        unsigned char *x = bytes_of(a, name, &n), *y = bytes_of(b, name, &m);
        assert_int_equal(n, m);
        count += memcmp(x, y, n) != 0;
        free(x), free(y);
    }
    return count;
}

/* ---- The same function ---- */

/* f32 sums in another order than torch's. */
static const double TOLERANCE = 2e-5;

/* How far the UNet's answer is from what torch had of the model in tests/data. */
static double unet_off(const ck_reader *model) {
    ck_reader *r;
    ck_unet_config c;
    ck_params *p;
    size_t n, m, k, l;
    ok(ck_reader_open("tests/data/parity/unet.safetensors", &r, &err));
    ok(ck_unet_read(MODEL "unet/config.json", &c, &err));
    ok(ck_params_from(model, "unet.", &p, &err));
    float *x = parity_image(r, "sample", 4, 256, &n), *want = parity_image(r, "out", 4, 256, &m);
    int64_t *steps = parity_tensor(r, "timestep", &k);
    float *context = parity_tensor(r, "encoder_hidden_states", &l), time[4];
    assert_int_equal(k, 4);
    for (size_t i = 0; i < k; i++) time[i] = (float)steps[i];
    ck_graph *g = ck_graph_new();
    ck_unet_inputs in = {.x = ck_input(g, "x", CK_F32, CK_SHAPE(4, 16, 16, 4)),
                         .time = ck_input(g, "time", CK_F32, CK_SHAPE(4)),
                         .context = ck_input(g, "context", CK_F32, CK_SHAPE(4, 16, 64))};
    ck_node out = ck_unet(g, p, &c, &in);
    ck_exec *e = parity_run(g, &out, 1, (ck_node[]){in.x, in.time, in.context},
                            (const void *[]){x, time, context}, (size_t[]){n, k, l}, 3);
    double off = parity_off(e, out, want, m);
    free(x), free(want), free(steps), free(context);
    ck_exec_free(e), ck_graph_free(g), ck_params_free(p), ck_reader_close(r);
    return off;
}

static void test_unet(void **state) {
    (void)state;
    ck_reader *model, *view;
    ok(ck_reader_open(MODEL, &model, &err));
    view = shuffled(model, &unet_sizes, 1);
    assert_true(differing(model, view) > 150);
    assert_true(unet_off(view) < TOLERANCE);
    ck_reader_close(view);
    /* What the table does not allow does change the answer: one channel in another group of the
     * normalisation, one in another head. */
    const char *const names[] = {"unet.down_blocks.0.resnets.0 inside",
                                 "unet.mid_block.attentions.0.transformer_blocks.0 attn1 heads"};
    for (int i = 0; i < 2; i++) {
        ck_channels *c;
        ok(ck_channels_open(model, &unet_sizes, &c, &err));
        size_t g = 0;
        while (g < c->group_count && strcmp(c->groups[g].name, names[i]) != 0) g++;
        assert_true(g < c->group_count);
        uint32_t *order = c->groups[g].order[0], last = (uint32_t)c->groups[g].size - 1;
        order[0] = last, order[last] = 0;
        ok(ck_channels_view(c, &view, &err));
        assert_true(unet_off(view) > 10 * TOLERANCE);
        ck_channels_free(c);
        ck_reader_close(view);
    }
    ck_reader_close(model);
}

static void test_vae(void **state) {
    (void)state;
    ck_reader *r, *model;
    ck_vae_config c;
    ck_params *p;
    size_t n, m;
    ok(ck_reader_open(MODEL, &model, &err));
    ck_reader *view = shuffled(model, &vae_sizes, 2);
    ok(ck_reader_open("tests/data/parity/vae.safetensors", &r, &err));
    ok(ck_vae_read(MODEL "vae/config.json", &c, &err));
    ok(ck_params_from(view, "vae.", &p, &err));
    float *image = parity_image(r, "image", 1, 1024, &n),
          *latents = parity_image(r, "latents", 4, 256, &m);
    ck_graph *g = ck_graph_new();
    ck_node in = ck_input(g, "image", CK_F32, CK_SHAPE(2, 32, 32, 1));
    ck_node small = ck_input(g, "latents", CK_F32, CK_SHAPE(2, 16, 16, 4));
    ck_node outputs[] = {ck_vae_encode(g, p, &c, in).mean, ck_vae_decode(g, p, &c, small)};
    ck_exec *e = parity_run(g, outputs, 2, (ck_node[]){in, small}, (const void *[]){image, latents},
                            (size_t[]){n, m}, 2);
    float *mean = parity_image(r, "mean", 4, 256, &m),
          *decoded = parity_image(r, "decoded", 1, 1024, &n);
    assert_true(parity_off(e, outputs[0], mean, m) < TOLERANCE);
    assert_true(parity_off(e, outputs[1], decoded, n) < TOLERANCE);
    free(image), free(latents), free(mean), free(decoded);
    ck_exec_free(e), ck_graph_free(g), ck_params_free(p), ck_reader_close(r);
    ck_reader_close(view), ck_reader_close(model);
}

static void test_clip(void **state) {
    (void)state;
    ck_reader *r, *model;
    ck_clip_config c;
    ck_params *p;
    size_t n;
    ok(ck_reader_open(MODEL, &model, &err));
    ck_reader *view = shuffled(model, &unet_sizes, 3);
    ok(ck_reader_open("tests/data/parity/text.safetensors", &r, &err));
    ok(ck_clip_read(MODEL "text_encoder/config.json", &c, &err));
    ok(ck_params_from(view, "text_encoder.", &p, &err));
    int64_t *wide = parity_tensor(r, "input_ids", &n);
    int32_t ids[64], rows[4];
    assert_int_equal(n, 64);
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)wide[i];
    ck_clip_ends(&c, ids, 4, 16, rows);
    ck_graph *g = ck_graph_new();
    ck_node in = ck_input(g, "ids", CK_I32, CK_SHAPE(4, 16));
    ck_node ends = ck_input(g, "ends", CK_I32, CK_SHAPE(4));
    ck_clip_text t = ck_clip(g, p, &c, in, ends);
    ck_exec *e = parity_run(g, &t.last, 1, (ck_node[]){in, ends}, (const void *[]){ids, rows},
                            (size_t[]){64, 4}, 2);
    float *last = parity_tensor(r, "last_hidden_state", &n);
    assert_true(parity_off(e, t.last, last, n) < TOLERANCE);
    free(wide), free(last);
    ck_exec_free(e), ck_graph_free(g), ck_params_free(p), ck_reader_close(r);
    ck_reader_close(view), ck_reader_close(model);
}

/* A small UNet as SDXL's, of random weights; *out: what it answers, OUT numbers. */
enum { XL_SIDE = 8, XL_OUT = 2 * XL_SIDE * XL_SIDE * 4 };

static const ck_unet_config xl = {
    .in_channels = 4,
    .out_channels = 4,
    .sample_size = XL_SIDE,
    .level = {{.channels = 16, .heads = 2, .layers = 2},
              {.channels = 32, .heads = 4, .layers = 2, .depth = {2, 2}, .up_depth = {2, 2, 2}},
              {.channels = 32, .heads = 4, .layers = 2, .depth = {1, 1}, .up_depth = {1, 1, 1}}},
    .levels = 3,
    .mid = 2,
    .mid_depth = 1,
    .context = 24,
    .groups = 8,
    .eps = 1e-5,
    .flip = true,
    .added_time = 8,
    .added_width = 12 + 6 * 8,
};
static const ck_channel_sizes xl_sizes = {.unet_head = 8, .clip_head = 16, .norm_groups = 8};

static void answer_xl(ck_params *p, float *out) {
    float x[XL_OUT], time[2] = {10, 700}, context[2 * 5 * 24], pooled[2 * 12];
    float sizes[12] = {64, 64, 0, 0, 64, 64, 32, 64, 1, 2, 64, 32};
    ck_philox_fill_normal(1, 0, 0, 0, XL_OUT, x);
    ck_philox_fill_normal(1, 0, 1, 0, sizeof context / sizeof *context, context);
    ck_philox_fill_normal(1, 0, 2, 0, 24, pooled);
    ck_graph *g = ck_graph_new();
    ck_unet_inputs in = {.x = ck_input(g, "x", CK_F32, CK_SHAPE(2, XL_SIDE, XL_SIDE, 4)),
                         .time = ck_input(g, "time", CK_F32, CK_SHAPE(2)),
                         .context = ck_input(g, "context", CK_F32, CK_SHAPE(2, 5, 24)),
                         .pooled = ck_input(g, "pooled", CK_F32, CK_SHAPE(2, 12)),
                         .sizes = ck_input(g, "sizes", CK_F32, CK_SHAPE(2, 6))};
    ck_node node = ck_unet(g, p, &xl, &in);
    ck_exec *e = parity_run(
        g, &node, 1, (ck_node[]){in.x, in.time, in.context, in.pooled, in.sizes},
        (const void *[]){x, time, context, pooled, sizes}, (size_t[]){XL_OUT, 2, 240, 24, 12}, 5);
    ok(ck_exec_read(e, node, out, XL_OUT, &err));
    ck_exec_free(e), ck_graph_free(g);
}

static void test_sdxl(void **state) {
    (void)state;
    ck_reader *model;
    ck_params *p = ck_params_new(5), *q;
    float before[XL_OUT], after[XL_OUT];
    answer_xl(p, before);
    ok(ck_params_reader(p, &model, &err));
    ck_reader *view = shuffled(model, &xl_sizes, 4);
    assert_true(differing(model, view) > 100);
    ok(ck_params_from(view, "", &q, &err));
    answer_xl(q, after);
    double off = 0, size = 0;
    for (size_t i = 0; i < XL_OUT; i++) {
        off = fmax(off, fabs((double)after[i] - before[i]));
        size = fmax(size, fabs((double)before[i]));
    }
    assert_true(off < TOLERANCE * size);
    ck_params_free(q);

    /* And back. */
    ck_channels *c;
    ck_rebasin_result result;
    ck_reader *back;
    ok(ck_channels_open(view, &xl_sizes, &c, &err));
    ok(ck_rebasin(c, model, &(ck_rebasin_options){0}, &result, &err));
    ok(ck_channels_view(c, &back, &err));
    assert_int_equal(differing(model, back), 0);
    ck_channels_free(c);
    ck_reader_close(back), ck_reader_close(view), ck_reader_close(model);
    ck_params_free(p);
}

/* ---- The order back ---- */

/* b in a's order. */
static ck_reader *match(const ck_reader *b, const ck_reader *a, const ck_channel_sizes *sizes,
                        unsigned threads, ck_rebasin_result *result) {
    ck_channels *c;
    ck_reader *view;
    ok(ck_channels_open(b, sizes, &c, &err));
    ok(ck_rebasin(c, a, &(ck_rebasin_options){.threads = threads}, result, &err));
    ok(ck_channels_view(c, &view, &err));
    ck_channels_free(c);
    return view;
}

static void test_undoes(void **state) {
    (void)state;
    ck_reader *model;
    ck_rebasin_result result;
    ok(ck_reader_open(MODEL, &model, &err));
    const ck_channel_sizes *const sizes[] = {&unet_sizes, &vae_sizes};
    for (int i = 0; i < 2; i++) {
        ck_reader *view = shuffled(model, sizes[i], 10 + (uint64_t)i);
        ck_reader *back = match(view, model, sizes[i], 1 + 2 * (unsigned)i, &result);
        assert_true(result.moved > result.channels / 2 && result.moved < result.channels);
        assert_int_equal(differing(model, back), 0);
        ck_reader_close(back), ck_reader_close(view);
        /* A model in its own order stays. */
        back = match(model, model, sizes[i], 0, &result);
        assert_int_equal(result.moved, 0);
        ck_reader_close(back);
    }
    ck_reader_close(model);
}

/* A model whose every weight is off by some of its tensor's spread. */
static ck_reader *noisy(const ck_reader *model, float share) {
    ck_reader *view;
    ok(ck_view_new("noisy", &view, &err));
    for (size_t i = 0; i < ck_reader_count(model); i++) {
        const ck_tensor *t = ck_reader_tensor(model, i);
        size_t n;
        float *data = parity_tensor(model, t->name, &n), *noise = malloc(n * sizeof *noise);
        double sum = 0, squares = 0;
        assert_int_equal(t->dtype, CK_F32);
        for (size_t k = 0; k < n; k++) sum += data[k], squares += (double)data[k] * data[k];
        float spread = (float)sqrt(fmax(squares / (double)n - sum * sum / (double)(n * n), 0));
        ck_philox_fill_normal(6, 0, (uint32_t)i, 0, n, noise);
        for (size_t k = 0; k < n; k++) data[k] += share * spread * noise[k];
        ok(ck_view_constant(view, t->name, t->dtype, t->rank, t->shape, data, &err));
        free(data), free(noise);
    }
    ok(ck_view_finish(view, &err));
    return view;
}

/* The order is found of models that are only alike, too. */
static void test_noise(void **state) {
    (void)state;
    ck_reader *model;
    ck_rebasin_result result;
    ok(ck_reader_open(MODEL, &model, &err));
    ck_reader *b = noisy(model, 0.05f), *view = shuffled(b, &unet_sizes, 30);
    ck_reader *back = match(view, model, &unet_sizes, 0, &result);
    assert_int_equal(differing(b, back), 0);
    ck_reader_close(back), ck_reader_close(view), ck_reader_close(b), ck_reader_close(model);
}

/* In the original layout, where names differ and matrices are fused, the same orders do the same.
 */
static void test_original_layout(void **state) {
    (void)state;
    static const char *const cases[] = {"sd1 file", "sd2 file", "sdxl file"};
    const ck_channel_sizes sizes = {.heads = 1, .clip_head = 1, .norm_groups = 1};
    for (int i = 0; i < 3; i++) {
        layout l = {0};
        layout_make(&l, layout_case_named(cases[i]), true);
        ck_reader *original = layout_reader(&l), *diffusers, *converted;
        ok(ck_layout_convert(original, CK_LAYOUT_DIFFUSERS, CK_UNUSED_KEEP, &diffusers, NULL,
                             &err));
        ck_channels *a, *b;
        ok(ck_channels_open(original, &sizes, &a, &err));
        ok(ck_channels_open(diffusers, &sizes, &b, &err));
        assert_int_equal(a->group_count, b->group_count);
        shuffle_all(a, 20);
        shuffle_all(b, 20);
        ck_reader *x, *y;
        ok(ck_channels_view(a, &x, &err));
        ok(ck_channels_view(b, &y, &err));
        ok(ck_layout_convert(x, CK_LAYOUT_DIFFUSERS, CK_UNUSED_KEEP, &converted, NULL, &err));
        assert_true(differing(diffusers, converted) > 300);
        assert_int_equal(differing(y, converted), 0);
        ck_channels_free(a), ck_channels_free(b);
        ck_reader_close(converted), ck_reader_close(x), ck_reader_close(y);
        ck_reader_close(diffusers), ck_reader_close(original);
        layout_free(&l);
    }
}

/* ---- What is refused ---- */

static void refused(const ck_reader *model, const ck_channel_sizes *sizes, const char *message) {
    ck_channels *c;
    assert_int_equal(ck_channels_open(model, sizes, &c, &err), CK_INPUT);
    if (!strstr(err.message, message)) print_error("%s\n", err.message);
    assert_non_null(strstr(err.message, message));
}

/* The model in tests/data but for one tensor, which is of this shape (rank 0: NULL) and value. */
static ck_reader *changed(const ck_reader *model, const char *name, size_t rank,
                          const uint64_t *shape, float value) {
    ck_reader *view;
    size_t n = 1;
    for (size_t i = 0; i < rank; i++) n *= shape[i];
    float *data = malloc(n * sizeof *data);
    for (size_t i = 0; i < n; i++) data[i] = value;
    ok(ck_view_new("changed", &view, &err));
    for (size_t i = 0; i < ck_reader_count(model); i++) {
        const ck_tensor *t = ck_reader_tensor(model, i);
        if (strcmp(t->name, name) != 0) ok(ck_view_rename(view, t->name, model, t, &err));
    }
    ok(ck_view_constant(view, name, CK_F32, rank, shape, data, &err));
    ok(ck_view_finish(view, &err));
    free(data);
    return view;
}

#define NORM "unet.down_blocks.0.resnets.0.norm2.weight"

static void test_refused(void **state) {
    (void)state;
    ck_reader *model, *other;
    layout l = {0};
    layout_make(&l, layout_case_named("flux-dev"), true);
    other = layout_reader(&l);
    refused(other, &unet_sizes, "FLUX.1 dev: which of its channels can be permuted is known for");
    ck_reader_close(other);
    layout_free(&l);
    ok(ck_reader_open(MODEL "vae/diffusion_pytorch_model.safetensors", &other, &err));
    refused(other, &vae_sizes, "of an architecture that is unknown");
    ck_reader_close(other);
    ok(ck_reader_open(MODEL, &model, &err));
    refused(model, NULL, "has width 32 instead of 320");
    refused(model, &(ck_channel_sizes){.heads = 4, .clip_head = 16, .norm_groups = 5},
            "does not go into groups or heads");
    other = changed(model, NORM, 1, SHAPE(48), 1);
    refused(other, &unet_sizes, NORM "' of shape [48] does not fit the layers around it");
    ck_reader_close(other);
    other = changed(model, "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k_ip.weight",
                    2, SHAPE(64, 64), 1);
    refused(other, &unet_sizes, "is not known: its channels cannot be permuted");
    ck_reader_close(other);
    ck_reader_close(model);
}

/* Refused when it is compared. */
static void test_not_matching(void **state) {
    (void)state;
    ck_reader *model;
    ck_channels *c;
    ck_rebasin_result result;
    int cancel = 1;
    ok(ck_reader_open(MODEL, &model, &err));
    ok(ck_channels_open(model, &unet_sizes, &c, &err));
    ck_reader *narrow = changed(model, NORM, 1, SHAPE(48), 1);
    assert_int_equal(ck_rebasin(c, narrow, &(ck_rebasin_options){0}, &result, &err), CK_INPUT);
    assert_non_null(strstr(err.message, NORM "' is F32 [32], but F32 [48] in changed"));
    ck_reader *endless = changed(model, NORM, 1, SHAPE(32), INFINITY);
    assert_int_equal(ck_rebasin(c, endless, &(ck_rebasin_options){0}, &result, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "'unet.down_blocks.0.resnets.0 inside' are not finite"));
    assert_int_equal(ck_rebasin(c, model, &(ck_rebasin_options){.cancel = &cancel}, &result, &err),
                     CK_CANCELLED);
    ck_reader_close(narrow), ck_reader_close(endless);
    ck_channels_free(c);
    ck_reader_close(model);
}

/* ---- On the command line ---- */

/* Of SD1's widths only as much as says what it is, and a feed-forward of 6 whose channels are in
 * this order. */
static void write_sd1(const fixture *f, const char *name, const int order[6]) {
    static float conv_in[320 * 4 * 9], context[8 * 768], proj[12 * 4], bias[12], out[4 * 6];
    uint64_t seed = 3;
    for (size_t i = 0; i < 8 * 768; i++) context[i] = fixture_random_float(&seed);
    for (size_t i = 0; i < 320 * 4 * 9; i++) conv_in[i] = fixture_random_float(&seed);
    for (int i = 0; i < 6; i++)
        for (int half = 0; half < 2; half++) {
            int row = half * 6 + i;
            bias[row] = (float)(order[i] - 3 * half);
            for (int j = 0; j < 4; j++)
                proj[row * 4 + j] = sinf((float)(order[i] * 4 + j + 50 * half));
            for (int j = 0; j < 4; j++) out[j * 6 + i] = cosf((float)(order[i] * 4 + j));
        }
#define MID "model.diffusion_model.middle_block.1.transformer_blocks.0."
    const fixture_tensor tensors[] = {
        {"model.diffusion_model.output_blocks.0.0.in_layers.0.weight", CK_F32, {6}, 1, context},
        {"model.diffusion_model.input_blocks.0.0.weight", CK_F32, {320, 4, 3, 3}, 4, conv_in},
        {MID "attn2.to_k.weight", CK_F32, {8, 768}, 2, context},
        {MID "ff.net.0.proj.weight", CK_F32, {12, 4}, 2, proj},
        {MID "ff.net.0.proj.bias", CK_F32, {12}, 1, bias},
        {MID "ff.net.2.weight", CK_F32, {4, 6}, 2, out},
    };
    fixture_safetensors(f, name, tensors, 6, NULL);
}

static void same_files(const fixture *f, const char *a, const char *b) {
    ck_reader *x, *y;
    ok(ck_reader_open(fixture_path(f, a), &x, &err));
    ok(ck_reader_open(fixture_path(f, b), &y, &err));
    assert_int_equal(differing(x, y), 0);
    ck_reader_close(x), ck_reader_close(y);
}

static void test_program(void **state) {
    (void)state;
    fixture f;
    fixture_make(&f);
    write_sd1(&f, "a.safetensors", (const int[]){0, 1, 2, 3, 4, 5});
    write_sd1(&f, "b.safetensors", (const int[]){4, 2, 0, 5, 3, 1});
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors --rebasin --alpha 1 "
                                         "-o o.safetensors --write-recipe r.json"),
                   0, NULL, "b.safetensors: re-basin moved 6 of 26 channels");
    same_files(&f, "a.safetensors", "o.safetensors");
    /* Mixed as they are, they are not a. */
    program_expect(
        program_run(f.folder, "ckmerge a.safetensors b.safetensors -o mixed.safetensors"), 0, NULL,
        NULL);
    ck_reader *a, *mixed;
    ok(ck_reader_open(fixture_path(&f, "a.safetensors"), &a, &err));
    ok(ck_reader_open(fixture_path(&f, "mixed.safetensors"), &mixed, &err));
    assert_int_equal(differing(a, mixed), 3);
    ck_reader_close(a), ck_reader_close(mixed);
    /* The recipe, and the merge's metadata, make the same again. */
    program_expect(program_run(f.folder, "grep -c rebasin r.json"), 0, "1", NULL);
    program_expect(program_run(f.folder, "ckmerge -r r.json -o again.safetensors -t 3"), 0, NULL,
                   NULL);
    program_expect(program_run(f.folder, "ckmerge --replay o.safetensors --model-dir . "
                                         "-o replayed.safetensors"),
                   0, NULL, NULL);
    size_t n, m;
    unsigned char *first = fixture_read(fixture_path(&f, "o.safetensors"), &n);
    const char *const others[] = {"again.safetensors", "replayed.safetensors"};
    for (int i = 0; i < 2; i++) {
        unsigned char *other = fixture_read(fixture_path(&f, others[i]), &m);
        assert_int_equal(n, m);
        assert_memory_equal(first, other, n);
        free(other);
    }
    free(first);
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors --rebasin -n"), 0,
                   NULL, NULL);
    fixture_remove(&f);
}

static void test_recipe_refused(void **state) {
    (void)state;
    static const struct {
        const char *recipe, *message;
    } cases[] = {
        {"{\"a\": {\"path\": \"a\", \"rebasin\": true}, \"b\": \"b\", \"l\": \"l\"}, "
         "\"merge\": {\"method\": \"weighted-sum\", \"inputs\": [\"a\", \"b\"]}}",
         "'a' is the first model, whose order re-basin keeps"},
        {"{\"a\": \"a\", \"l\": {\"path\": \"l\", \"rebasin\": true}}, "
         "\"merge\": {\"method\": \"lora\", \"inputs\": [\"a\", \"l\"]}}",
         "'l' is a LoRA; re-basin is for models"},
        {"{\"a\": \"a\", \"b\": {\"path\": \"b\", \"rebasin\": true}, \"l\": \"l\"}, "
         "\"merge\": {\"method\": \"weighted-sum\", \"inputs\": [\"a\", {\"method\": "
         "\"lora\", \"inputs\": [\"b\", \"l\"]}]}}",
         "LoRA 'l' does not fit 'b' after re-basin"},
        {"{\"a\": \"a\", \"b\": {\"path\": \"b\", \"rebasin\": 1}}, "
         "\"merge\": {\"method\": \"weighted-sum\", \"inputs\": [\"a\", \"b\"]}}",
         "true or false"},
    };
    fixture f;
    fixture_make(&f);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1024];
        snprintf(text, sizeof text, "{\"ckmerge_recipe\": 1, \"models\": %s", cases[i].recipe);
        fixture_file(&f, "r.json", text, strlen(text));
        program_expect(program_run(f.folder, "ckmerge -r r.json"), i == 3 ? 1 : 2, NULL,
                       cases[i].message);
    }
    program_expect(program_run(f.folder, "ckmerge -r r.json --rebasin"), 2, NULL,
                   "--rebasin do not go with --recipe");
    program_expect(program_run(f.folder, "ckmerge a --lora l --rebasin"), 2, NULL,
                   "--rebasin: there is only one model");
    fixture_remove(&f);
}

/* ---- Memory ---- */

static ck_status attempt(const ck_reader *model) {
    ck_channels *c;
    ck_reader *view;
    ck_rebasin_result result;
    CK_TRY(ck_channels_open(model, &unet_sizes, &c, &err));
    ck_status status = ck_rebasin(c, model, &(ck_rebasin_options){0}, &result, &err);
    if (status == CK_OK) status = ck_channels_view(c, &view, &err);
    ck_channels_free(c);
    if (status == CK_OK) ck_reader_close(view);
    return status;
}

/* A model of one transformer block, so that there is an end to it. */
static void test_memory(void **state) {
    (void)state;
    ck_reader *model, *view;
    ok(ck_reader_open(MODEL, &model, &err));
    ok(ck_view_new("small", &view, &err));
    for (size_t i = 0; i < ck_reader_count(model); i++) {
        const ck_tensor *t = ck_reader_tensor(model, i);
        if (strstr(t->name, "unet.mid_block.attentions.0.") ||
            strcmp(t->name, "unet.up_blocks.0.resnets.0.norm1.weight") == 0)
            ok(ck_view_rename(view, t->name, model, t, &err));
    }
    ok(ck_view_finish(view, &err));
    for (int kind = FAULT_CALLOC; kind <= FAULT_REALLOC; kind++)
        for (fault_first((fault_kind)kind, ENOMEM); fault_more();) {
            fault_arm();
            ck_status status = attempt(view);
            fault_disarm();
            assert_int_equal(status, fault_hit() ? CK_MEMORY : CK_OK);
        }
    ck_reader_close(view), ck_reader_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unet),
        cmocka_unit_test(test_vae),
        cmocka_unit_test(test_clip),
        cmocka_unit_test(test_sdxl),
        cmocka_unit_test(test_undoes),
        cmocka_unit_test(test_noise),
        cmocka_unit_test(test_original_layout),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_not_matching),
        cmocka_unit_test(test_program),
        cmocka_unit_test(test_recipe_refused),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
