/* Noise schedules against those of diffusers (tests/interop/make_schedules.py), and what is
 * refused. */
#include "distill/diffusion/schedule.h"
#include "io/json.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct reference {
    ck_json doc;
    fixture files;
} reference;

static int setup(void **state) {
    static reference r;
    ck_error err;
    if (ck_json_load("tests/data/sampling/schedules.json", &r.doc, &err) != CK_OK)
        fail_msg("%s", err.message);
    fixture_make(&r.files);
    *state = &r;
    return 0;
}

static int teardown(void **state) {
    reference *r = *state;
    ck_json_free(&r->doc);
    fixture_remove(&r->files);
    return 0;
}

static const cJSON *get(const cJSON *object, const char *field) {
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(object, field);
    assert_non_null(node);
    return node;
}

static ck_status read_text(const reference *r, const char *text, ck_schedule *s, ck_error *err) {
    return ck_schedule_read(fixture_file(&r->files, "scheduler_config.json", text, strlen(text)), s,
                            err);
}

static ck_schedule must_read(const reference *r, const char *text) {
    ck_schedule s;
    ck_error err = {0};
    if (read_text(r, text, &s, &err) != CK_OK) fail_msg("%s", err.message);
    return s;
}

/* abar is within two units of its last place (torch's linspace differs by one between machines).
 * Rescaling takes differences of it and rounds a thousand times: there 3e-6 of the value remain. */
static void test_alphas(void **state) {
    const reference *r = *state;
    const cJSON *one;
    size_t schedules = 0;
    cJSON_ArrayForEach(one, get(r->doc.root, "schedules")) {
        ck_schedule s = must_read(r, get(one, "config")->valuestring);
        float *abar = malloc(s.train_steps * sizeof *abar);
        assert_non_null(abar);
        ck_schedule_alphas(&s, abar);
        const cJSON *value;
        size_t i = 0;
        cJSON_ArrayForEach(value, get(one, "abar")) {
            double expected = value->valuedouble;
            double tolerance = s.zero_snr ? 3e-6 : 2 * 0x1p-23;
            if (!(fabs(abar[i] - expected) <= tolerance * expected))
                fail_msg("schedule %zu: abar[%zu] is %.9g, not %.9g", schedules, i, abar[i],
                         expected);
            i += 9;
        }
        assert_int_equal((i + 8) / 9, (s.train_steps + 8) / 9);
        if (s.zero_snr) assert_true(abar[s.train_steps - 1] == 0);
        free(abar);
        schedules++;
    }
    assert_int_equal(schedules, 8);
}

static void test_defaults_of_classes(void **state) {
    const reference *r = *state;
    ck_schedule s = must_read(
        r, get(cJSON_GetArrayItem(get(r->doc.root, "schedules"), 0), "config")->valuestring);
    ck_schedule sd = ck_schedule_sd();
    assert_string_equal(s.sampler, "ddim");
    assert_true(s.betas == sd.betas && s.beta_start == sd.beta_start && s.beta_end == sd.beta_end);
    assert_true(!s.clip && !s.final_one && s.steps_offset == 1 && s.spacing == CK_SPACING_LEADING);
    s = must_read(r, "{\"_class_name\": \"DDIMScheduler\"}");
    assert_true(s.clip && s.final_one && s.steps_offset == 0 && s.beta_end == 0.02);
    assert_true(s.betas == CK_BETAS_LINEAR && s.prediction == CK_PREDICT_EPSILON);
    s = must_read(
        r, "{\"_class_name\": \"EulerDiscreteScheduler\", \"final_sigmas_type\": \"sigma_min\"}");
    assert_string_equal(s.sampler, "euler");
    assert_true(s.spacing == CK_SPACING_LINSPACE && s.final_sigma_min && !s.clip);
    s = must_read(r, "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift\": 3}");
    assert_string_equal(s.sampler, "flow_euler");
    assert_true(s.prediction == CK_PREDICT_FLOW && s.shift == 3);
    s = must_read(r, "{\"_class_name\": \"PNDMScheduler\", \"skip_prk_steps\": true}");
    assert_null(s.sampler);
}

static void test_refused(void **state) {
    static const struct {
        const char *fields, *message;
    } bad[] = {
        {"\"beta_schedule\": \"sigmoid\"", "$.beta_schedule: 'sigmoid' is not implemented"},
        {"\"prediction_type\": \"v\"", "'v' is not implemented"},
        {"\"thresholding\": true", "$.thresholding: not implemented"},
        {"\"trained_betas\": [0.1]", "$.trained_betas: not implemented"},
        {"\"shift_terminal\": 0.1", "$.shift_terminal"},
        {"\"algorithm_type\": \"sde-dpmsolver++\"", "$.algorithm_type"},
        {"\"solver_order\": 3", "$.solver_order"},
        {"\"lambda_min_clipped\": -5.1", "$.lambda_min_clipped"},
        {"\"lower_order_final\": false", "$.lower_order_final"},
        {"\"num_train_timesteps\": 1", "num_train_timesteps is 1, not within 2 to"},
        {"\"num_train_timesteps\": 1e12", "num_train_timesteps"},
        {"\"num_train_timesteps\": 10.5", "whole number"},
        {"\"steps_offset\": 1000", "steps_offset"},
        {"\"beta_start\": 0", "beta_start is 0"},
        {"\"beta_start\": 0.5", "beta_end is 0.02, not within 0.5"},
        {"\"beta_end\": 1", "beta_end is 1"},
        {"\"original_inference_steps\": 0", "original_inference_steps"},
        {"\"original_inference_steps\": 1001", "original_inference_steps"},
        {"\"shift\": -1", "shift is -1"},
        {"\"base_image_seq_len\": 4096", "max_image_seq_len is 4096, not within 4097"},
        {"\"clip_sample\": 1", "true or false"},
        {"\"beta_strat\": 0.1", "did you mean \"beta_start\""},
        {"\"beta_end\": 0.1, \"beta_end\": 0.2", "there twice"},
    };
    const reference *r = *state;
    ck_schedule s;
    ck_error err = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"_class_name\": \"DDIMScheduler\", %s}", bad[i].fields);
        if (read_text(r, text, &s, &err) != CK_INPUT || !strstr(err.message, bad[i].message))
            fail_msg("%s: '%s' lacks '%s'", text, err.message, bad[i].message);
        assert_non_null(strstr(err.message, "scheduler_config.json:1"));
    }
    assert_int_equal(read_text(r, "{}", &s, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "no _class_name"));
    assert_int_equal(read_text(r, "{\"_class_name\": \"UniPCMultistepScheduler\"}", &s, &err),
                     CK_INPUT);
    assert_non_null(strstr(err.message, "'UniPCMultistepScheduler' are not known"));
    assert_int_equal(read_text(r, "[", &s, &err), CK_INPUT);
    assert_int_equal(ck_schedule_read("/nonexistent", &s, &err), CK_IO);
}

static void test_spacings(void **state) {
    const reference *r = *state;
    double t[1000];
    for (int spacing = 0; spacing < 3; spacing++) {
        const cJSON *one = cJSON_GetArrayItem(get(r->doc.root, "spacings"), spacing), *list, *value;
        size_t n = 1, i;
        cJSON_ArrayForEach(list, get(one, "lists")) {
            ck_spacing_timesteps((ck_spacing)spacing, 1000, 1, n, true, t);
            i = 0;
            cJSON_ArrayForEach(value, list) assert_true(t[i++] == value->valuedouble);
            assert_int_equal(i, n++);
        }
        n = 1;
        cJSON_ArrayForEach(value, get(one, "sums")) {
            double hundred = 0;
            for (size_t k = 0; k < 100; k++, n++) {
                ck_spacing_timesteps((ck_spacing)spacing, 1000, 1, n, true, t);
                double sum = 0;
                for (i = 0; i < n; i++) sum += (double)(i + 1) * t[i];
                hundred += (double)(k + 1) * sum;
            }
            assert_true(hundred == value->valuedouble);
        }
        ck_spacing_timesteps((ck_spacing)spacing, 1000, 1, 7, false, t);
        i = 0;
        cJSON_ArrayForEach(value, get(one, "unrounded"))
            assert_true((float)t[i++] == (float)value->valuedouble);
        assert_int_equal(i, 7);
    }
}

static void test_karras(void **state) {
    const reference *r = *state;
    const cJSON *one;
    cJSON_ArrayForEach(one, get(r->doc.root, "karras")) {
        double sigma[18];
        size_t n = (size_t)cJSON_GetArraySize(one) - 2;
        ck_karras_sigmas(cJSON_GetArrayItem(one, 0)->valuedouble,
                         cJSON_GetArrayItem(one, 1)->valuedouble, n, sigma);
        for (size_t i = 0; i < n; i++) {
            double expected = cJSON_GetArrayItem(one, (int)i + 2)->valuedouble;
            assert_true(fabs(sigma[i] / expected - 1) < 1e-12);
        }
    }
}

static void test_shifts(void **state) {
    const reference *r = *state;
    const cJSON *one;
    cJSON_ArrayForEach(one, get(r->doc.root, "shifts")) {
        ck_schedule s = must_read(r, get(one, "config")->valuestring);
        for (int i = 0; i < 4; i++) {
            double t = ck_flow_shift(&s, (size_t)get(one, "tokens")->valuedouble, 1 - 0.25 * i);
            double expected = cJSON_GetArrayItem(get(one, "t"), i)->valuedouble;
            assert_true(fabs(t - expected) < 1e-7);
        }
    }
}

/* What the target says about x0 and noise has to give them back, at every kind of level. */
static void test_predictions(void **state) {
    (void)state;
    double x0 = 0.7, noise = -1.3;
    const ck_level levels[] = {ck_level_vp(0.25), ck_level_ve(3), ck_level_flow(0.4)};
    for (int k = 0; k < 3; k++)
        for (int p = CK_PREDICT_EPSILON; p <= CK_PREDICT_FLOW; p++) {
            /* Rectified flow is defined where a + s = 1. */
            if (p == CK_PREDICT_FLOW && k != 2) continue;
            ck_mix target = ck_level_target((ck_prediction)p, levels[k]);
            double x = levels[k].a * x0 + levels[k].s * noise;
            double answer = target.first * x0 + target.second * noise;
            ck_mix to_x0 = ck_level_x0((ck_prediction)p, levels[k]);
            ck_mix to_noise = ck_level_noise((ck_prediction)p, levels[k]);
            assert_true(fabs(to_x0.first * x + to_x0.second * answer - x0) < 1e-14);
            assert_true(fabs(to_noise.first * x + to_noise.second * answer - noise) < 1e-14);
        }
    ck_mix v = ck_level_target(CK_PREDICT_V, ck_level_vp(0.25));
    assert_true(fabs(v.first + sqrt(0.75)) < 1e-15 && fabs(v.second - 0.5) < 1e-15);
}

static void test_faults(void **state) {
    const reference *r = *state;
    char path[256];
    snprintf(path, sizeof path, "%s",
             fixture_file(&r->files, "f.json", "{\"_class_name\": \"LCMScheduler\"}", 31));
    static const fault_kind kinds[] = {FAULT_CALLOC, FAULT_OPEN, FAULT_PREAD};
    for (int k = 0; k < 3; k++) {
        size_t faults = 0;
        for (fault_first(kinds[k], k ? EIO : ENOMEM); fault_more();) {
            ck_schedule s;
            ck_error err = {0};
            fault_arm();
            ck_status status = ck_schedule_read(path, &s, &err);
            fault_disarm();
            faults += fault_hit();
            assert_int_equal(status, !fault_hit() ? CK_OK : k ? CK_IO : CK_MEMORY);
        }
        assert_true(faults > 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alphas),      cmocka_unit_test(test_defaults_of_classes),
        cmocka_unit_test(test_refused),     cmocka_unit_test(test_spacings),
        cmocka_unit_test(test_karras),      cmocka_unit_test(test_shifts),
        cmocka_unit_test(test_predictions), cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
