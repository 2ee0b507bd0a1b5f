/* What a run takes, said before anything is downloaded or read: the recipes for published models,
 * each with a folder that has its model's configs but no weights, or a file's header alone. */
#include "io/layout.h"
#include "io/os.h"
#include "io/pipeline.h"
#include "io/safetensors.h"
#include "io/writer.h"
#include "tests/ok.h"
#include "tests/fixture.h"
#include "tests/layouts.h"
#include "tests/program.h"

#include "distill/models/flux.h"
#include "distill/data/image.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static fixture f;
/* ---- Models without weights ---- */

static void write_json(const char *folder, const char *part, const char *name, cJSON *json) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, part);
    mkdir(fixture_path(&f, path), 0777);
    snprintf(path, sizeof path, "%s/%s%s", folder, part, name);
    char *text = cJSON_Print(json);
    ok(ck_write_file(fixture_path(&f, path), text, strlen(text), true, &err));
    free(text);
    cJSON_Delete(json);
}

/* The configs of a published model, by its case of layouts.h, as a diffusers folder has them. */
static void write_configs(const char *name, const char *folder) {
    layout l;
    ck_reader *view;
    ck_anatomy a;
    cJSON *json;
    layout_make(&l, layout_case_named(name), false);
    ck_reader *r = layout_reader(&l);
    ok(ck_layout_convert(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_DROP, &view, NULL, &err));
    ok(ck_anatomy_of(view, &a, &err));
    mkdir(fixture_path(&f, folder), 0777);
    ok(ck_pipeline_index(view, &a, &json, &err));
    write_json(folder, "", "model_index.json", json);
    ok(ck_pipeline_scheduler(view, &a, &json, &err));
    write_json(folder, "scheduler/", "scheduler_config.json", json);
    for (size_t c = 0; c < a.component_count; c++) {
        if (!ck_part_is_model(a.components[c].part)) continue;
        char part[64];
        snprintf(part, sizeof part, "%.*s/", (int)strcspn(a.components[c].prefix, "."),
                 a.components[c].prefix);
        ok(ck_pipeline_config(view, &a, c, &json, &err));
        write_json(folder, part, "config.json", json);
    }
    ck_anatomy_free(&a);
    ck_reader_close(view);
    ck_reader_close(r);
    layout_free(&l);
}

static int set_up(void **state) {
    (void)state;
    ck_image image;
    fixture_make(&f);
    write_configs("sd1 file", "stable-diffusion-v1-5");
    write_configs("sdxl file", "stable-diffusion-xl-base-1.0");
    write_configs("flux-dev file", "FLUX.1-schnell");
    ck_flux_config c = {.guidance = false};
    const char *config = fixture_path(&f, "FLUX.1-schnell/transformer/config.json");
    ok(ck_flux_write(config, &c, config, &err));
    mkdir(fixture_path(&f, "photos"), 0777);
    ok(ck_image_make(64, 64, 3, &image, &err));
    ok(ck_image_write(fixture_path(&f, "photos/0.png"), &image, NULL, 0, true, &err));
    ck_image_free(&image);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    fixture_remove(&f);
    return 0;
}

/* ---- Recipes ---- */

/* In so little address space that no weight of such a model can be held. */
static const outcome *plan(const char *recipe, const char *teacher, const char *sets) {
    return program_run(f.folder,
                       "ulimit -v %s; ckdistill run $OLDPWD/recipes/distill/%s --set "
                       "data.images=photos --set teacher=%s --dry-run %s",
                       is_watched() ? "unlimited" : "4000000", recipe, teacher, sets);
}

static const struct {
    const char *recipe, *teacher;
    const char *trained; /* million parameters */
} recipes[] = {{"sd15-lcm-lora.json", "stable-diffusion-v1-5", "67.25"},
               {"sdxl-lcm-lora.json", "stable-diffusion-xl-base-1.0", "196.75"},
               {"sd15-dmd2.json", "stable-diffusion-v1-5", "1767.91"},
               {"sdxl-dmd2-lora.json", "stable-diffusion-xl-base-1.0", "427.62"},
               {"flux-guidance.json", "FLUX.1-schnell", "11901.41"}, /* those of FLUX.1 dev */
               {"flux-guidance-lora.json", "FLUX.1-schnell", "261.49"}};

static void test_recipes(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        char trained[64];
        const outcome *o = plan(recipes[i].recipe, recipes[i].teacher, "");
        snprintf(trained, sizeof trained, "; %s million parameters trained", recipes[i].trained);
        program_expect(o, 0, NULL, trained);
        program_expect(o, 0, NULL, "GB for a step, ");
        program_expect(o, 0, NULL, "weights are not there");
        program_expect(o, 0, NULL, " for all steps, without evaluations");
    }
}

/* A recipe that is not listed above would not be tried by anybody. */
static void test_all_listed(void **state) {
    (void)state;
    static const char *const tried_elsewhere[] = {"checkerboard-", "fashion-"};
    DIR *folder = opendir("recipes/distill");
    assert_non_null(folder);
    for (struct dirent *e; (e = readdir(folder));) {
        bool known = !strstr(e->d_name, ".json");
        for (int i = 0; i < 2; i++)
            known |= strncmp(e->d_name, tried_elsewhere[i], strlen(tried_elsewhere[i])) == 0;
        for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
            known |= strcmp(e->d_name, recipes[i].recipe) == 0;
        if (!known) fail_msg("recipes/distill/%s", e->d_name);
    }
    closedir(folder);
}

/* ---- A file's header ---- */

/* A whole model in one file, of zeros that take no place on the disk. */
static void write_header(const char *name, const char *file) {
    layout l;
    char *head;
    size_t size;
    uint64_t whole;
    layout_make(&l, layout_case_named(name), false);
    ck_tensor *tensors = calloc(l.count, sizeof *tensors);
    const ck_tensor **order = calloc(l.count, sizeof *order);
    uint64_t *offsets = calloc(l.count, sizeof *offsets);
    for (size_t i = 0; i < l.count; i++) {
        const layout_tensor *t = &l.tensors[i];
        tensors[i] = (ck_tensor){.name = t->name, .dtype = t->dtype, .rank = t->rank};
        tensors[i].shape = (uint64_t *)t->shape;
        tensors[i].elements = 1;
        for (size_t k = 0; k < t->rank; k++) tensors[i].elements *= t->shape[k];
        tensors[i].nbytes = tensors[i].elements * ck_dtype_bits(t->dtype) / 8;
        order[i] = &tensors[i];
    }
    ck_safetensors_sort(order, l.count);
    ok(ck_safetensors_header(order, l.count, NULL, 0, &head, &size, offsets, &whole, &err));
    const char *path = fixture_file(&f, file, head, size);
    assert_int_equal(truncate(path, (off_t)whole), 0);
    free(head), free(offsets), free(order), free(tensors);
    layout_free(&l);
}

static void test_header(void **state) {
    (void)state;
    write_header("sdxl file", "sdxl.safetensors");
    const outcome *o = plan("sdxl-dmd2-lora.json", "sdxl.safetensors", "--set batch=256");
    program_expect(o, 0, NULL, "; 427.62 million parameters trained");
    program_expect(o, 0, NULL, "which is too little: no step was timed");
    /* A transformer tells alone what it takes. */
    write_header("flux-schnell", "flux.safetensors");
    program_expect(plan("flux-guidance-lora.json", "flux.safetensors", ""), 0, NULL,
                   "; 261.49 million parameters trained");
    /* Shapes are looked at: a VAE is no model to train. */
    write_header("vae4", "vae.safetensors");
    o = plan("sdxl-dmd2-lora.json", "vae.safetensors", "");
    program_expect(o, 1, NULL, "has no UNet and no transformer");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recipes),
        cmocka_unit_test(test_all_listed),
        cmocka_unit_test(test_header),
    };
    return cmocka_run_group_tests_name("plans", tests, set_up, tear_down);
}
