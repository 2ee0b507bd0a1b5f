/* cktool's split, join, swap-vae, prune and convert on every kind of model, in tiny. */
#include "io/view.h"
#include "merge/save.h"
#include "tests/check.h"
#include "tests/fixture.h"
#include "tests/layouts.h"
#include "tests/program.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static fixture f;

static int setup(void **state) {
    (void)state;
    fixture_make(&f);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_remove(&f);
    return 0;
}

/* Writes a tiny model of this case; its data begin at `shift` so that two can differ. */
static void write_model(const char *name, const char *file) {
    layout l;
    ck_error err;
    const layout_case *c = layout_case_named(name);
    assert_non_null(c);
    layout_make(&l, c, true);
    ck_reader *r = layout_reader(&l);
    ck_save_options o = {.dtype = CK_DTYPE_COUNT, .replace = true, .quiet = true};
    ck_save_result result;
    if (ck_save(r, fixture_path(&f, file), &o, &result, &err) != CK_OK) fail_msg("%s", err.message);
    assert_int_equal(result.tensors, l.count);
    ck_reader_close(r);
    layout_free(&l);
}

static void same(const char *a, const char *b) {
    size_t n, m;
    unsigned char *x = fixture_read(fixture_path(&f, a), &n),
                  *y = fixture_read(fixture_path(&f, b), &m);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    free(x), free(y);
}

/* Taking a model apart and putting it together gives the same file. */
static void test_split_and_join(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"sd1 file",
         "--unet p/unet.safetensors --clip p/clip_l.safetensors --vae p/vae.safetensors"},
        {"sd2 file",
         "--unet p/unet.safetensors --clip p/clip_h.safetensors --vae p/vae.safetensors"},
        {"sdxl file", "--unet p/unet.safetensors --clip p/clip_l.safetensors --clip2 "
                      "p/clip_g.safetensors --vae p/vae.safetensors"},
        {"refiner file",
         "--unet p/unet.safetensors --clip p/clip_g.safetensors --vae p/vae.safetensors"},
        {"sd3-medium file", "--unet p/transformer.safetensors --vae p/vae.safetensors"},
        {"sd3.5-large file", "--unet p/transformer.safetensors --vae p/vae.safetensors"},
        {"sd1 inpainting file",
         "--unet p/unet.safetensors --clip p/clip_l.safetensors --vae p/vae.safetensors"},
        {"flux-dev file", "--unet p/transformer.safetensors --clip p/clip_l.safetensors --t5 "
                          "p/t5xxl.safetensors --vae p/vae.safetensors"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_model(cases[i][0], "model");
        outcome *o = program_run(f.folder,
                                 "rm -rf p joined && cktool split model -d p -q && cktool join "
                                 "%s -o joined -q",
                                 cases[i][1]);
        if (o->status) fail_msg("%s: %s", cases[i][0], o->err);
        same("model", "joined");
    }
}

/* There and back through the other layout gives the same file, for every case that has one. */
static void test_convert_round_trip(void **state) {
    (void)state;
    for (size_t i = 0; i < layout_case_count; i++) {
        /* Only its width tells which one a CLIP is that stands alone under diffusers names, and in
         * tiny it has another; within a model the layouts' tests have them. */
        if (strcmp(layout_cases[i].name, "clip-h") == 0 ||
            strcmp(layout_cases[i].name, "clip-g") == 0)
            continue;
        write_model(layout_cases[i].name, "model");
        outcome *o =
            program_run(f.folder, "cktool convert model d -f -q --layout diffusers && cktool "
                                  "convert d back -f -q --layout ldm");
        if (o->status) fail_msg("%s: %s", layout_cases[i].name, o->err);
        same("model", "back");
    }
}

/* Merging a model with one in the other layout is the same as merging after converting. */
static void test_merge_across_layouts(void **state) {
    (void)state;
    static const char *const cases[] = {"sd1 file", "sd2 file", "sdxl file", "sd3.5-medium file",
                                        "flux-dev"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_model(cases[i], "a");
        /* Half of a in f32, then rounded: another model, and no NaN turns up in a wrong place. */
        outcome *o = program_run(
            f.folder, "ckmerge a a -m linear --weight 0.25,0.25 --normalize off -fqo b && "
                      "cktool convert b d -fq --layout diffusers && "
                      "ckmerge a b -fqo one && ckmerge a d -fo two && "
                      "cktool diff one two");
        program_expect(o, 0, "identical", "is read in its layout");
    }
}

static void test_convert_dtype_and_shards(void **state) {
    (void)state;
    write_model("sd1 unet", "model");
    program_expect(program_run(f.folder,
                               "cktool convert model one.safetensors --dtype bf16 && cktool "
                               "convert model s.safetensors --dtype bf16 --max-shard-size 8KB "
                               "&& ls s-00001-of-*.safetensors s.safetensors.index.json && "
                               "cktool diff one.safetensors s.safetensors.index.json && cktool "
                               "convert s.safetensors.index.json again.safetensors"),
                   0, "identical", NULL);
    same("one.safetensors", "again.safetensors");
    program_expect(program_run(f.folder, "cktool convert model x --max-shard-size big"), 2, NULL,
                   "such as 5GB");
    program_expect(program_run(f.folder, "cktool convert model one.safetensors"), 2, NULL,
                   "--force");
}

static void test_swap_vae(void **state) {
    (void)state;
    write_model("sd1 file", "model");
    write_model("vae4", "vae");
    program_expect(program_run(f.folder,
                               "cktool swap-vae model vae -o swapped && cktool convert vae d "
                               "--layout diffusers && cktool swap-vae model d -o other -q"),
                   0, "1131 tensors", NULL);
    same("swapped", "other");
    program_expect(program_run(f.folder, "cktool diff model swapped"), 0,
                   "vae               248 tensors,      0 equal", NULL);
    program_expect(program_run(f.folder, "cktool diff model swapped"), 0,
                   "unet              686 tensors,    686 equal", NULL);
    /* The VAE that is in a whole model. */
    program_expect(program_run(f.folder, "cktool swap-vae swapped model -o back -q"), 0, NULL,
                   NULL);
    same("model", "back");
    write_model("vae16", "flux-vae");
    program_expect(program_run(f.folder, "cktool swap-vae model flux-vae -o bad"), 1, NULL,
                   "not a VAE for this model");
    write_model("sd1 unet", "unet");
    program_expect(program_run(f.folder, "cktool swap-vae model unet -o bad"), 1, NULL,
                   "no VAE is in it");
    program_expect(program_run(f.folder, "cktool swap-vae unet vae -o bad"), 1, NULL,
                   "no VAE is in it");
    assert_int_not_equal(access(fixture_path(&f, "bad"), F_OK), 0);
}

/* A model with averaged weights, schedules and a marker. */
static void test_prune(void **state) {
    (void)state;
    layout l;
    layout_make(&l, layout_case_named("sd1 file"), true);
    size_t plain = l.count;
    for (size_t i = 0; i < plain; i++) {
        layout_tensor *t = &l.tensors[i];
        char name[160] = "model_ema.", *to = name + strlen(name);
        if (strncmp(t->name, "model.", 6) != 0) continue;
        for (const char *c = t->name + 6; *c; c++)
            if (*c != '.') *to++ = *c;
        *to = 0;
        layout_add(&l, name, CK_F16, t->rank, t->shape);
        /* (adding may have moved the tensors) */
    }
    layout_add(&l, "model_ema.decay", CK_F32, 0, NULL);
    layout_add(&l, "alphas_cumprod", CK_F32, 1, (uint64_t[]){10});
    layout_add(&l, "v_pred", CK_F32, 1, (uint64_t[]){0});
    ck_reader *r = layout_reader(&l);
    ck_save_options o = {.dtype = CK_DTYPE_COUNT, .quiet = true};
    ck_save_result result;
    ck_error err;
    assert_int_equal(ck_save(r, fixture_path(&f, "full"), &o, &result, &err), CK_OK);
    ck_reader_close(r);
    layout_free(&l);
    write_model("sd1 file", "plain");

    program_expect(program_run(f.folder, "cktool prune full -o pruned && cktool diff pruned plain"),
                   0, "1 tensors are only in A", NULL);
    program_expect(program_run(f.folder, "cktool prune full -o pruned -fq && cktool ls pruned"), 0,
                   "v_pred", NULL);
    program_expect(program_run(f.folder,
                               "cktool prune full -o kept -q --keep-ema && cktool ls kept | "
                               "grep -c model_ema"),
                   0, "687\n", NULL);
    program_expect(program_run(f.folder, "cktool prune full -o used --use-ema"), 0,
                   "686 replaced by their averages", NULL);
    program_expect(program_run(f.folder, "cktool diff used pruned"), 0,
                   "unet              686 tensors,      0 equal", NULL);
    program_expect(program_run(f.folder, "cktool prune plain -o x --use-ema"), 1, NULL,
                   "has no averaged weights");
    /* What belongs to no component survives being taken apart. */
    program_expect(program_run(f.folder,
                               "cktool split full -d p -q && cktool join --unet p/unet.safetensors "
                               "--clip p/clip_l.safetensors --vae p/vae.safetensors --rest "
                               "p/rest.safetensors -o joined -q"),
                   0, NULL, NULL);
    same("full", "joined");
}

static void test_mistakes(void **state) {
    (void)state;
    write_model("sd1 unet", "unet");
    program_expect(program_run(f.folder, "cktool join --unet unet"), 2, NULL, "-o OUT are needed");
    program_expect(program_run(f.folder, "cktool join --unet unet --vae unet -o x"), 1, NULL,
                   "no VAE is in it");
    fixture_raw_safetensors(
        &f, "odd", "{\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", "x", 1);
    program_expect(program_run(f.folder, "cktool split odd -d p"), 1, NULL,
                   "no component of a known model");
    assert_int_not_equal(access(fixture_path(&f, "p"), F_OK), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_split_and_join, setup, teardown),
        cmocka_unit_test_setup_teardown(test_convert_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_merge_across_layouts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_convert_dtype_and_shards, setup, teardown),
        cmocka_unit_test_setup_teardown(test_swap_vae, setup, teardown),
        cmocka_unit_test_setup_teardown(test_prune, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mistakes, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
