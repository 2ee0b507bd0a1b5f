/* Models written as diffusers folders. */
#include "io/layout.h"
#include "io/pipeline.h"
#include "io/view.h"
#include "merge/save.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"
#include "tests/layouts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODEL "tests/data/models/base"

static ck_reader *opened(const char *path) {
    ck_error err;
    ck_reader *r;
    if (ck_reader_open(path, &r, &err) != CK_OK) fail_msg("%s", err.message);
    return r;
}

static ck_status save(ck_reader *r, const char *path, const char *configs, ck_save_result *result,
                      ck_error *err) {
    ck_save_options o = {.dtype = CK_DTYPE_COUNT, .quiet = true, .configs = configs};
    return ck_save(r, path, &o, result, err);
}

static void saved(ck_reader *r, const char *path, const char *configs) {
    ck_error err;
    ck_save_result result;
    if (save(r, path, configs, &result, &err) != CK_OK) fail_msg("%s", err.message);
    ck_reader_close(r);
}

static void refused(ck_reader *r, const char *path, const char *configs, const char *message) {
    ck_error err;
    ck_save_result result;
    assert_int_not_equal(save(r, path, configs, &result, &err), CK_OK);
    if (!strstr(err.message, message)) fail_msg("'%s' instead of '%s'", err.message, message);
    ck_reader_close(r);
}

static void same_files(const char *a, const char *b) {
    size_t n, m;
    unsigned char *x = fixture_read(a, &n), *y = fixture_read(b, &m);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    free(x);
    free(y);
}

static bool contains(const char *path, const char *text) {
    size_t n;
    char *all = (char *)fixture_read(path, &n);
    bool has = memmem(all, n, text, strlen(text)) != NULL;
    free(all);
    return has;
}

#define PATH(name) (snprintf(path, sizeof path, "%s/%s", f.folder, name), path)

/* From a folder to one file in LDM's layout, to a folder again, and to such a file once more. */
static void test_there_and_back(void **state) {
    (void)state;
    fixture f;
    char path[256], other[256];
    ck_error err;
    ck_reader *view, *folder = opened(MODEL);
    fixture_make(&f);
    assert_int_equal(
        ck_layout_convert(folder, CK_LAYOUT_ORIGINAL, CK_UNUSED_KEEP, &view, NULL, &err), CK_OK);
    saved(view, PATH("1.safetensors"), NULL);
    ck_reader_close(folder);
    snprintf(other, sizeof other, "%s/out/", f.folder);
    refused(opened(PATH("1.safetensors")), other, NULL, "width 32 instead of 320");
    refused(opened(PATH("1.safetensors")), other, f.folder, "neither model_index.json");
    other[strlen(other) - 1] = 0;
    mkdir(other, 0777); /* empty: it is taken */
    saved(opened(PATH("1.safetensors")), other, MODEL);
    refused(opened(PATH("1.safetensors")), other, MODEL, "is not empty");
    assert_true(access(PATH("out/unet/config.json"), F_OK) == 0);
    same_files(PATH("out/vae/config.json"), MODEL "/vae/config.json");
    same_files(PATH("out/scheduler/scheduler_config.json"),
               MODEL "/scheduler/scheduler_config.json");
    folder = opened(other);
    assert_string_equal(ck_reader_format(folder), "diffusers");
    assert_int_equal(
        ck_layout_convert(folder, CK_LAYOUT_ORIGINAL, CK_UNUSED_KEEP, &view, NULL, &err), CK_OK);
    saved(view, PATH("2.safetensors"), NULL);
    ck_reader_close(folder);
    snprintf(other, sizeof other, "%s/1.safetensors", f.folder);
    same_files(other, PATH("2.safetensors"));
    /* Nothing else was left there. */
    assert_int_equal(fixture_entries(&f), 3);
    fixture_remove(&f);
}

static void test_one_component(void **state) {
    (void)state;
    fixture f;
    char path[256];
    fixture_make(&f);
    saved(opened(MODEL "/vae"), PATH("vae/"), NULL);
    same_files(PATH("vae/config.json"), MODEL "/vae/config.json");
    ck_reader *r = opened(PATH("vae"));
    assert_non_null(ck_reader_find(r, "decoder.conv_in.weight"));
    ck_reader_close(r);
    fixture_remove(&f);
}

/* What markers say is in the scheduler's config, and is read from there. */
static void test_markers(void **state) {
    (void)state;
    fixture f;
    char path[256], other[256];
    ck_error err;
    ck_anatomy a;
    ck_save_result result;
    ck_reader *view, *folder = opened(MODEL);
    fixture_make(&f);
    const uint64_t none = 0;
    const float decay = 1;
    assert_int_equal(ck_view_new("model", &view, &err), CK_OK);
    for (size_t i = 0; i < ck_reader_count(folder); i++) {
        const ck_tensor *t = ck_reader_tensor(folder, i);
        assert_int_equal(ck_view_rename(view, t->name, folder, t, &err), CK_OK);
    }
    assert_int_equal(ck_view_constant(view, "v_pred", CK_F32, 1, &none, "", &err), CK_OK);
    assert_int_equal(ck_view_constant(view, "ztsnr", CK_F32, 1, &none, "", &err), CK_OK);
    assert_int_equal(ck_view_constant(view, "model_ema.decay", CK_F32, 0, NULL, &decay, &err),
                     CK_OK);
    assert_int_equal(ck_view_finish(view, &err), CK_OK);
    if (save(view, PATH("v/"), MODEL, &result, &err) != CK_OK) fail_msg("%s", err.message);
    assert_int_equal(result.left_out, 1);
    assert_string_equal(result.first_left_out, "model_ema.decay");
    ck_reader_close(view);
    ck_reader_close(folder);
    assert_true(contains(PATH("v/scheduler/scheduler_config.json"), "v_prediction"));
    assert_false(contains(PATH("v/scheduler/scheduler_config.json"), "leading"));
    folder = opened(PATH("v"));
    assert_int_equal(ck_anatomy_of(folder, &a, &err), CK_OK);
    assert_int_equal(a.prediction, CK_PREDICTION_V);
    assert_true(a.zero_snr);
    ck_anatomy_free(&a);
    /* And once more from there. */
    snprintf(other, sizeof other, "%s/w/", f.folder);
    saved(folder, other, NULL);
    snprintf(other, sizeof other, "%s/w/scheduler/scheduler_config.json", f.folder);
    same_files(PATH("v/scheduler/scheduler_config.json"), other);
    fixture_remove(&f);
}

/* Whatever fails, there is no folder. */
static void test_faults(void **state) {
    (void)state;
    static const struct {
        fault_kind kind;
        int error;
    } faults[] = {{FAULT_PWRITE, ENOSPC}, {FAULT_FTRUNCATE, EFBIG}, {FAULT_LINK, EACCES},
                  {FAULT_PREAD, EIO},     {FAULT_RENAME, EACCES},   {FAULT_OPEN, EMFILE}};
    fixture f;
    char path[256];
    fixture_make(&f);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        for (fault_first(faults[i].kind, faults[i].error); fault_more();) {
            ck_error err;
            ck_save_result result;
            ck_reader *r = opened(MODEL "/vae");
            fault_arm();
            ck_status status = save(r, PATH("out"), NULL, &result, &err);
            fault_disarm();
            ck_reader_close(r);
            if (!fault_hit()) assert_int_equal(status, CK_OK);
            /* The last open is that of the folder around it, to sync it. */
            bool late = status != CK_OK && strstr(err.message, "written, but");
            assert_int_equal(fixture_entries(&f), status == CK_OK || late ? 1 : 0);
            fixture_remove(&f);
            fixture_make(&f);
        }
    fixture_remove(&f);
}

/* ---- Made configs ---- */

/* "a":b,"c":d in the JSON that was made. */
static void check_json(cJSON *json, const char *fields) {
    cJSON *want = cJSON_Parse(fields);
    assert_non_null(want);
    for (const cJSON *field = want->child; field; field = field->next) {
        const cJSON *got = cJSON_GetObjectItemCaseSensitive(json, field->string);
        if (!cJSON_Compare(got, field, true))
            fail_msg("%s is %s", field->string, got ? cJSON_PrintUnformatted(got) : "missing");
    }
    cJSON_Delete(want);
    cJSON_Delete(json);
}

/* Full-size key sets and shapes. That all of them are the networks of diffusers, name by name and
 * shape by shape, is what tests/interop/check_configs.py checks. */
static const struct {
    const char *name, *index, *scheduler, *denoiser;
} made[] = {
    {"sd1 file",
     "{\"_class_name\":\"StableDiffusionPipeline\",\"unet\":[\"diffusers\","
     "\"UNet2DConditionModel\"],\"tokenizer\":[null,null],\"safety_checker\":[null,null]}",
     "{\"_class_name\":\"DDIMScheduler\",\"prediction_type\":\"epsilon\"}",
     "{\"in_channels\":4,\"out_channels\":4,\"attention_head_dim\":8,\"sample_size\":64}"},
    {"sd1 inpainting file", "{\"_class_name\":\"StableDiffusionInpaintPipeline\"}", "{}",
     "{\"in_channels\":9,\"out_channels\":4}"},
    {"sdxl file",
     "{\"_class_name\":\"StableDiffusionXLPipeline\",\"text_encoder_2\":[\"transformers\","
     "\"CLIPTextModelWithProjection\"],\"tokenizer_2\":[null,null]}",
     "{\"_class_name\":\"EulerDiscreteScheduler\"}",
     "{\"transformer_layers_per_block\":[1,2,10],\"cross_attention_dim\":2048}"},
    {"sd3.5-medium file",
     "{\"_class_name\":\"StableDiffusion3Pipeline\",\"text_encoder_3\":[null,null]}",
     "{\"_class_name\":\"FlowMatchEulerDiscreteScheduler\",\"shift\":3}",
     "{\"pos_embed_max_size\":384,\"qk_norm\":\"rms_norm\"}"},
    {"flux-dev file", "{\"_class_name\":\"FluxPipeline\"}", "{\"use_dynamic_shifting\":true}",
     "{\"guidance_embeds\":true,\"in_channels\":64}"},
    {"flux fill", "{\"_class_name\":\"FluxFillPipeline\"}", "{}",
     "{\"in_channels\":384,\"out_channels\":64}"},
};

static void test_made_configs(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) {
        layout l;
        ck_error err;
        ck_anatomy a;
        cJSON *json;
        ck_reader *view;
        layout_make(&l, layout_case_named(made[i].name), false);
        ck_reader *r = layout_reader(&l);
        assert_int_equal(
            ck_layout_convert(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_KEEP, &view, NULL, &err), CK_OK);
        assert_int_equal(ck_anatomy_of(view, &a, &err), CK_OK);
        assert_int_equal(ck_pipeline_index(view, &a, &json, &err), CK_OK);
        check_json(json, made[i].index);
        assert_int_equal(ck_pipeline_scheduler(view, &a, &json, &err), CK_OK);
        check_json(json, made[i].scheduler);
        assert_int_equal(ck_pipeline_config(view, &a, 0, &json, &err), CK_OK);
        check_json(json, made[i].denoiser);
        ck_anatomy_free(&a);
        ck_reader_close(view);
        ck_reader_close(r);
        layout_free(&l);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back), cmocka_unit_test(test_one_component),
        cmocka_unit_test(test_markers),        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_made_configs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
