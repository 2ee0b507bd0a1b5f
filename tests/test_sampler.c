/* Samplers against those of diffusers (tests/interop/make_samplers.py), and what does not depend on
 * any reference: noise, batches, exactness where the answer is known. */
#include "distill/diffusion/sampler.h"
#include "io/json.h"
#include "kernels/philox.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ELEMENTS = 5 };

static const ck_sampler_options small = {
    .images = 1, .elements = ELEMENTS, .seed = 1234, .eta = NAN, .tokens = 0};

static ck_sampler *must_start(const ck_schedule *schedule, const char *name, size_t steps,
                              const ck_sampler_options *options) {
    ck_sampler *s;
    ck_error err = {0};
    if (ck_sampler_start(schedule, name, steps, options, &s, &err) != CK_OK)
        fail_msg("%s: %s", name, err.message);
    return s;
}

static const cJSON *get(const cJSON *object, const char *field) {
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(object, field);
    assert_non_null(node);
    return node;
}

static void get_floats(const cJSON *lists, size_t i, float out[ELEMENTS]) {
    const cJSON *list = cJSON_GetArrayItem(lists, (int)i);
    assert_int_equal(cJSON_GetArraySize(list), ELEMENTS);
    for (int k = 0; k < ELEMENTS; k++) out[k] = (float)cJSON_GetArrayItem(list, k)->valuedouble;
}

static double largest(const float *x, double at_least) {
    for (int k = 0; k < ELEMENTS; k++) at_least = fmax(at_least, fabs(x[k]));
    return at_least;
}

static void assert_close(const char *what, size_t i, const float *got, const float *expected,
                         double tolerance) {
    for (int k = 0; k < ELEMENTS; k++)
        if (!(fabs(got[k] - expected[k]) <= tolerance))
            fail_msg("%s %zu, element %d: %.9g, not %.9g", what, i, k, got[k], expected[k]);
}

/* One run of diffusers. Each step starts from its state, so that differences do not add up.
 *
 * Tolerances are for the largest element before or after the step: both sides round in f32, and
 * diffusers' Euler takes differences of states, which zero-SNR schedules begin at sigma 4096. These
 * schedules differ by 3e-6 themselves (test_schedule.c). The answers along recorded trajectories
 * are those of the network on another day: 3e-6 of the largest of 1024 elements. */
static void check_run(const cJSON *run, size_t index, const fixture *f) {
    const char *config = get(run, "config")->valuestring;
    ck_schedule schedule;
    ck_error err = {0};
    const char *path = fixture_file(f, "scheduler_config.json", config, strlen(config));
    if (ck_schedule_read(path, &schedule, &err) != CK_OK) fail_msg("%s", err.message);
    const cJSON *eta = cJSON_GetObjectItemCaseSensitive(run, "eta");
    ck_sampler_options options = small;
    if (eta) options.eta = eta->valuedouble;
    options.tokens = (size_t)get(run, "tokens")->valuedouble;
    const char *name = get(run, "sampler")->valuestring;
    const cJSON *states = get(run, "states");
    size_t steps = (size_t)cJSON_GetArraySize(get(run, "timesteps"));
    ck_sampler *s = must_start(&schedule, name, steps, &options);
    bool recorded = cJSON_GetObjectItemCaseSensitive(run, "recorded") != NULL;
    double tolerance = recorded ? 2e-5 : schedule.zero_snr ? 4e-6 : 1e-6;
    char what[64];
    snprintf(what, sizeof what, "run %zu (%s), step", index, name);

    float x[ELEMENTS], expected[ELEMENTS], got[ELEMENTS], output[ELEMENTS];
    get_floats(states, 0, x);
    if (!recorded) {
        ck_sampler_noise(s, got);
        ck_sampler_initial(s, got);
        assert_close("noise of run", index, got, x, 2e-7 * largest(x, 1));
    }
    for (size_t i = 0; i < steps; i++) {
        double t = cJSON_GetArrayItem(get(run, "timesteps"), (int)i)->valuedouble;
        if (fabs(ck_sampler_timestep(s, i) - t) > 1e-3)
            fail_msg("%s %zu: timestep %g, not %g", what, i, ck_sampler_timestep(s, i), t);
        get_floats(get(run, "inputs"), i, expected);
        ck_sampler_input(s, i, x, got);
        assert_close("input", i, got, expected, 2e-6 * largest(expected, 1));
        get_floats(get(run, "outputs"), i, output);
        get_floats(states, i + 1, expected);
        double scale = largest(x, largest(expected, 1));
        ck_sampler_step(s, i, x, output);
        assert_close(what, i, x, expected, tolerance * scale);
        memcpy(x, expected, sizeof x);
    }
    ck_sampler_free(s);
}

static void test_runs(void **state) {
    (void)state;
    ck_json doc;
    ck_error err;
    fixture f;
    fixture_make(&f);
    if (ck_json_load("tests/data/sampling/samplers.json", &doc, &err) != CK_OK)
        fail_msg("%s", err.message);
    size_t runs = 0;
    const cJSON *run;
    cJSON_ArrayForEach(run, doc.root) check_run(run, runs++, &f);
    assert_int_equal(runs, 43);
    ck_json_free(&doc);
    fixture_remove(&f);
}

/* A model that knows x0 leads every sampler there, whatever it predicts and however it is spaced.
 */
static void test_perfect_model(void **state) {
    (void)state;
    static const float x0[ELEMENTS] = {0.5f, -1.25f, 2, 0, 0.1f};
    for (size_t row = 0; ck_sampler_name(row); row++)
        for (int prediction = 0; prediction <= CK_PREDICT_FLOW; prediction++)
            for (int spacing = 0; spacing < 3; spacing++) {
                const char *name = ck_sampler_name(row);
                bool flow = strcmp(name, "flow_euler") == 0;
                bool ve = strncmp(name, "euler", 5) == 0;
                if (flow != (prediction == CK_PREDICT_FLOW) || (flow && spacing == 0)) continue;
                ck_schedule schedule = ck_schedule_sd();
                schedule.prediction = (ck_prediction)prediction;
                schedule.spacing = (ck_spacing)spacing;
                schedule.final_one = true;
                float abar[1000], x[ELEMENTS], output[ELEMENTS];
                ck_schedule_alphas(&schedule, abar);
                ck_sampler *s = must_start(&schedule, name, 5, &small);
                ck_sampler_noise(s, x);
                ck_sampler_initial(s, x);
                for (size_t i = 0; i < ck_sampler_steps(s); i++) {
                    double t = ck_sampler_timestep(s, i), a = abar[flow ? 0 : (int)t];
                    /* Between two timesteps sigma is interpolated. */
                    double low = sqrt((1 - a) / a), next = abar[flow ? 0 : (int)ceil(t)];
                    double sigma = low + (sqrt((1 - next) / next) - low) * (t - floor(t));
                    ck_level level = flow ? ck_level_flow(t / 1000)
                                     : ve ? ck_level_ve(sigma)
                                          : ck_level_vp(a);
                    ck_mix target = ck_level_target((ck_prediction)prediction, level);
                    for (int k = 0; k < ELEMENTS; k++) {
                        double noise = (x[k] - level.a * x0[k]) / level.s;
                        output[k] = (float)(target.first * x0[k] + target.second * noise);
                    }
                    ck_sampler_step(s, i, x, output);
                }
                /* LCM's bound keeps 1e-5 of the last state; TCD ends at timestep 0, not without
                 * noise. */
                double tolerance = strcmp(name, "tcd") == 0 ? 0.1 : 2e-4;
                assert_close(name, row, x, x0, tolerance);
                ck_sampler_free(s);
            }
}

/* An image does not depend on the batch around it, nor elements on how many there are. */
static void test_batches(void **state) {
    (void)state;
    enum { IMAGES = 3, N = 600 };
    ck_schedule schedule = ck_schedule_sd();
    ck_sampler_options options = {.images = IMAGES, .elements = N, .seed = 7, .eta = NAN};
    float x[IMAGES * N], output[IMAGES * N], one[N];
    for (int sampler = 0; sampler < 2; sampler++) {
        const char *name = sampler ? "dpmpp_2m" : "euler_a";
        options.images = IMAGES;
        options.seed = 7;
        ck_sampler *all = must_start(&schedule, name, 5, &options);
        options.images = 1;
        options.seed = 9;
        ck_sampler *last = must_start(&schedule, name, 5, &options);
        ck_sampler_noise(all, x);
        ck_sampler_noise(last, one);
        ck_sampler_initial(all, x);
        ck_sampler_initial(last, one);
        for (size_t i = 0; i < 5; i++) {
            for (int k = 0; k < IMAGES * N; k++) output[k] = sinf(x[k]);
            assert_memory_equal(one, x + 2 * N, sizeof one);
            ck_sampler_step(last, i, one, output + 2 * N);
            ck_sampler_step(all, i, x, output);
        }
        assert_memory_equal(one, x + 2 * N, sizeof one);
        assert_memory_not_equal(one, x + N, sizeof one);
        ck_sampler_free(all);
        ck_sampler_free(last);
    }
}

/* Fresh noise is that of its step and image, at every element. */
static void test_fresh_noise(void **state) {
    (void)state;
    enum { N = 700 };
    ck_schedule schedule = ck_schedule_sd();
    ck_sampler_options options = {.images = 2, .elements = N, .seed = 11, .eta = NAN};
    ck_sampler *s = must_start(&schedule, "lcm", 4, &options);
    float x[2 * N] = {0}, zero[2 * N] = {0}, z[N], abar[1000];
    ck_schedule_alphas(&schedule, abar);
    ck_sampler_step(s, 0, x, zero); /* x0 is 0, so that only noise is left */
    ck_sampler_step(s, 1, x, x);    /* not 0, but known */
    memset(x, 0, sizeof x);
    ck_sampler_step(s, 2, x, zero);
    ck_philox_fill_normal(12, 3, 0, 0, N, z);
    float level = (float)ck_level_vp(abar[(int)ck_sampler_timestep(s, 3)]).s;
    for (int i = 0; i < N; i++) assert_true(x[N + i] == level * z[i]);
    ck_sampler_free(s);
}

static void test_nan_stays(void **state) {
    (void)state;
    ck_schedule schedule = ck_schedule_sd();
    schedule.clip = true;
    ck_sampler *s = must_start(&schedule, "ddim", 2, &small);
    float x[ELEMENTS] = {9, NAN, -9, 0, 0}, output[ELEMENTS] = {0};
    ck_sampler_step(s, 0, x, output);
    ck_sampler_step(s, 1, x, output);
    assert_true(isnan(x[1]));
    assert_true(fabsf(x[0]) <= 1 && fabsf(x[2]) <= 1);
    ck_sampler_free(s);
}

static void test_refused(void **state) {
    (void)state;
    ck_schedule sd = ck_schedule_sd(), flow = sd, leading = sd, dynamic, zero = sd;
    flow.prediction = leading.prediction = CK_PREDICT_FLOW;
    flow.spacing = CK_SPACING_LINSPACE;
    dynamic = flow;
    dynamic.dynamic_shift = true;
    zero.zero_snr = true;
    zero.spacing = CK_SPACING_TRAILING;
    const struct {
        const ck_schedule *schedule;
        const char *name;
        size_t steps;
        double eta;
        size_t images;
        const char *message;
    } bad[] = {
        {&sd, "dimm", 5, NAN, 1,
         "no sampler 'dimm'; there are ddim, euler, euler_a, dpmpp_2m, lcm, tcd, flow_euler"},
        {&sd, "ddim", 0, NAN, 1, "0 steps; there can be 1 to 1000"},
        {&sd, "ddim", 1001, NAN, 1, "1001 steps"},
        {&sd, "ddim", 1000, NAN, 1, "too many"},
        {&sd, "dpmpp_2m", 1000, NAN, 1, "too many"},
        {&sd, "lcm", 51, NAN, 1, "distilled at 50 timesteps"},
        {&sd, "ddim", 5, NAN, 0, "no images"},
        {&sd, "euler", 5, 0.5, 1, "has no eta"},
        {&sd, "tcd", 4, 1.5, 1, "eta is 1.5"},
        {&sd, "ddim", 4, -0.5, 1, "eta is -0.5"},
        {&sd, "flow_euler", 4, NAN, 1, "is for models that predict flow"},
        {&flow, "euler", 4, NAN, 1, "flow_euler can"},
        {&leading, "flow_euler", 4, NAN, 1, "take trailing or linspace"},
        {&dynamic, "flow_euler", 4, NAN, 1, "number of image tokens"},
        {&zero, "ddim", 4, NAN, 1, "timestep 999 is pure noise"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ck_sampler_options options = {.images = bad[i].images, .elements = 4, .eta = bad[i].eta};
        ck_sampler *s;
        ck_error err = {0};
        ck_status status =
            ck_sampler_start(bad[i].schedule, bad[i].name, bad[i].steps, &options, &s, &err);
        if (status != CK_USAGE || !strstr(err.message, bad[i].message))
            fail_msg("%zu: '%s' lacks '%s'", i, err.message, bad[i].message);
    }
    /* An absurd batch: only where the sampler has to remember it. */
    ck_sampler_options options = {.images = SIZE_MAX / 2, .elements = 4, .eta = NAN};
    ck_sampler *s;
    ck_error err = {0};
    assert_int_equal(ck_sampler_start(&sd, "dpmpp_2m", 5, &options, &s, &err), CK_MEMORY);
}

static void test_faults(void **state) {
    (void)state;
    ck_schedule schedule = ck_schedule_sd();
    size_t faults = 0;
    for (fault_first(FAULT_CALLOC, ENOMEM); fault_more();) {
        ck_sampler *s;
        ck_error err = {0};
        fault_arm();
        ck_status status = ck_sampler_start(&schedule, "dpmpp_2m", 5, &small, &s, &err);
        fault_disarm();
        faults += fault_hit();
        assert_int_equal(status, fault_hit() ? CK_MEMORY : CK_OK);
        if (status == CK_OK) ck_sampler_free(s);
    }
    assert_int_equal(faults, 6);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs),      cmocka_unit_test(test_perfect_model),
        cmocka_unit_test(test_batches),   cmocka_unit_test(test_fresh_noise),
        cmocka_unit_test(test_nan_stays), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
