/* Schedules after diffusers' schedulers; see schedule.h. Where those compute in f32, so does this.
 */
#include "distill/diffusion/schedule.h"
#include "io/json.h"
#include "io/os.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

ck_schedule ck_schedule_sd(void) {
    return (ck_schedule){.sampler = "ddim",
                         .train_steps = 1000,
                         .prediction = CK_PREDICT_EPSILON,
                         .spacing = CK_SPACING_LEADING,
                         .steps_offset = 1,
                         .betas = CK_BETAS_SCALED_LINEAR,
                         .beta_start = 0.00085,
                         .beta_end = 0.012,
                         .clip_range = 1,
                         .lcm_steps = 50,
                         .timestep_scaling = 10,
                         .shift = 1,
                         .base_shift = 0.5,
                         .max_shift = 1.15,
                         .base_tokens = 256,
                         .max_tokens = 4096};
}

/* ---- scheduler_config.json ---- */

/* What the classes of diffusers are here, and what they take where the file says nothing. */
static const struct class_row {
    const char *class_name;
    const char *sampler;
    ck_spacing spacing;
    bool sd_betas; /* else linear from 0.0001 to 0.02 */
    bool final_one, clip;
} classes[] = {
    {"DDIMScheduler", "ddim", CK_SPACING_LEADING, false, true, true},
    {"EulerDiscreteScheduler", "euler", CK_SPACING_LINSPACE, false, false, false},
    {"EulerAncestralDiscreteScheduler", "euler_a", CK_SPACING_LINSPACE, false, false, false},
    {"DPMSolverMultistepScheduler", "dpmpp_2m", CK_SPACING_LINSPACE, false, false, false},
    {"LCMScheduler", "lcm", CK_SPACING_LEADING, true, true, false},
    {"TCDScheduler", "tcd", CK_SPACING_LEADING, true, true, false},
    {"FlowMatchEulerDiscreteScheduler", "flow_euler", CK_SPACING_LINSPACE, false, false, false},
    {"PNDMScheduler", NULL, CK_SPACING_LEADING, false, false, false},
    {"DDPMScheduler", NULL, CK_SPACING_LEADING, false, true, true},
};

/* Settings that are known. Those that change nothing here: limits of what is switched off, and
 * choices of classes that are only read for their betas. */
static const char known_fields[] =
    "_class_name _diffusers_version num_train_timesteps beta_start beta_end beta_schedule "
    "rescale_betas_zero_snr prediction_type timestep_spacing steps_offset set_alpha_to_one "
    "final_sigmas_type clip_sample clip_sample_range use_karras_sigmas original_inference_steps "
    "timestep_scaling shift use_dynamic_shifting time_shift_type base_shift max_shift "
    "base_image_seq_len max_image_seq_len "
    "dynamic_thresholding_ratio sample_max_value flow_shift skip_prk_steps variance_type "
    "trained_betas thresholding use_exponential_sigmas use_beta_sigmas use_flow_sigmas "
    "use_lu_lambdas invert_sigmas stochastic_sampling shift_terminal sigma_min sigma_max "
    "interpolation_type timestep_type algorithm_type solver_type solver_order lambda_min_clipped "
    "lower_order_final euler_at_final";

/* Settings that have to be as they mostly are; nothing else is implemented. */
static const char *const must_be_off[] = {
    "thresholding",   "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas",
    "use_lu_lambdas", "invert_sigmas",          "euler_at_final",  "stochastic_sampling",
    "trained_betas",  "shift_terminal",         "sigma_min",       "sigma_max"};
static const struct {
    const char *field, *text;
} must_be_text[] = {{"interpolation_type", "linear"},
                    {"timestep_type", "discrete"},
                    {"algorithm_type", "dpmsolver++"},
                    {"solver_type", "midpoint"}};

/* The index of the field's text in a list of names; *index stays where the field is absent. */
static ck_status choice(const ck_json *doc, const char *field, const char *const *names,
                        size_t count, int *index, ck_error *err) {
    const char *text = NULL;
    CK_TRY(ck_json_text(doc, doc->root, field, &text, err));
    if (!text) return CK_OK;
    for (size_t i = 0; i < count; i++)
        if (strcmp(text, names[i]) == 0) {
            *index = (int)i;
            return CK_OK;
        }
    return ck_json_fail(doc, cJSON_GetObjectItemCaseSensitive(doc->root, field), err,
                        "'%s' is not implemented", text);
}

/* A finite number within low ... high. */
static ck_status number(const ck_json *doc, const char *field, double low, double high,
                        double *value, ck_error *err) {
    CK_TRY(ck_json_number(doc, doc->root, field, value, err));
    if (*value >= low && *value <= high) return CK_OK;
    return ck_json_fail(doc, cJSON_GetObjectItemCaseSensitive(doc->root, field), err,
                        "%s is %g, not within %g to %g", field, *value, low, high);
}

static ck_status count(const ck_json *doc, const char *field, size_t low, size_t high,
                       size_t *value, ck_error *err) {
    uint64_t n = *value;
    CK_TRY(ck_json_count(doc, doc->root, field, &n, err));
    *value = (size_t)n;
    if (n >= low && n <= high) return CK_OK;
    return ck_json_fail(doc, cJSON_GetObjectItemCaseSensitive(doc->root, field), err,
                        "%s is %llu, not within %zu to %zu", field, (unsigned long long)n, low,
                        high);
}

static ck_status read_class(const ck_json *doc, ck_schedule *s, ck_error *err) {
    const char *name = NULL;
    CK_TRY(ck_json_text(doc, doc->root, "_class_name", &name, err));
    if (!name) return ck_json_fail(doc, doc->root, err, "no _class_name: not a scheduler's file");
    const struct class_row *row = NULL;
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (strcmp(name, classes[i].class_name) == 0) row = &classes[i];
    if (!row)
        return ck_json_fail(doc, cJSON_GetObjectItemCaseSensitive(doc->root, "_class_name"), err,
                            "schedulers of class '%s' are not known; DDIMScheduler with the same "
                            "betas and prediction_type would do",
                            name);
    s->sampler = row->sampler;
    s->spacing = row->spacing;
    s->final_one = row->final_one;
    s->clip = row->clip;
    s->steps_offset = 0;
    if (!row->sd_betas) {
        s->betas = CK_BETAS_LINEAR;
        s->beta_start = 0.0001;
        s->beta_end = 0.02;
    }
    if (row->sampler && strcmp(row->sampler, "flow_euler") == 0) s->prediction = CK_PREDICT_FLOW;
    return CK_OK;
}

static ck_status check_unimplemented(const ck_json *doc, ck_error *err) {
    for (size_t i = 0; i < sizeof must_be_off / sizeof *must_be_off; i++) {
        const cJSON *node = cJSON_GetObjectItemCaseSensitive(doc->root, must_be_off[i]);
        if (node && !cJSON_IsFalse(node) && !cJSON_IsNull(node))
            return ck_json_fail(doc, node, err, "not implemented; only without it");
    }
    for (size_t i = 0; i < sizeof must_be_text / sizeof *must_be_text; i++) {
        int index;
        CK_TRY(choice(doc, must_be_text[i].field, &must_be_text[i].text, 1, &index, err));
    }
    bool lower_order_final = true;
    CK_TRY(ck_json_bool(doc, doc->root, "lower_order_final", &lower_order_final, err));
    double order = 2, lambda = -INFINITY;
    CK_TRY(ck_json_number(doc, doc->root, "solver_order", &order, err));
    CK_TRY(ck_json_number(doc, doc->root, "lambda_min_clipped", &lambda, err));
    const char *field = !lower_order_final ? "lower_order_final"
                        : order != 2       ? "solver_order"
                        : lambda > -1e300  ? "lambda_min_clipped"
                                           : NULL;
    if (!field) return CK_OK;
    return ck_json_fail(doc, cJSON_GetObjectItemCaseSensitive(doc->root, field), err,
                        "this value is not implemented");
}

static ck_status read_choices(const ck_json *doc, ck_schedule *s, ck_error *err) {
    static const char *const betas[] = {"linear", "scaled_linear", "squaredcos_cap_v2"};
    static const char *const spacings[] = {"leading", "trailing", "linspace"};
    static const char *const predictions[] = {"epsilon", "sample", "v_prediction"};
    static const char *const finals[] = {"zero", "sigma_min"};
    static const char *const shifts[] = {"exponential", "linear"};
    int beta = (int)s->betas, spacing = (int)s->spacing, prediction = (int)s->prediction;
    int final = 0, shift = 0;
    CK_TRY(choice(doc, "beta_schedule", betas, 3, &beta, err));
    CK_TRY(choice(doc, "timestep_spacing", spacings, 3, &spacing, err));
    CK_TRY(choice(doc, "prediction_type", predictions, 3, &prediction, err));
    CK_TRY(choice(doc, "final_sigmas_type", finals, 2, &final, err));
    CK_TRY(choice(doc, "time_shift_type", shifts, 2, &shift, err));
    s->betas = (ck_betas)beta;
    s->spacing = (ck_spacing)spacing;
    s->prediction = (ck_prediction)prediction;
    s->final_sigma_min = final == 1;
    s->linear_shift = shift == 1;
    return CK_OK;
}

static ck_status read_values(const ck_json *doc, ck_schedule *s, ck_error *err) {
    CK_TRY(count(doc, "num_train_timesteps", 2, 1000000, &s->train_steps, err));
    CK_TRY(count(doc, "steps_offset", 0, s->train_steps - 1, &s->steps_offset, err));
    CK_TRY(number(doc, "beta_start", 1e-6, 0.999, &s->beta_start, err));
    CK_TRY(number(doc, "beta_end", s->beta_start, 0.999, &s->beta_end, err));
    CK_TRY(ck_json_bool(doc, doc->root, "rescale_betas_zero_snr", &s->zero_snr, err));
    CK_TRY(ck_json_bool(doc, doc->root, "set_alpha_to_one", &s->final_one, err));
    CK_TRY(ck_json_bool(doc, doc->root, "clip_sample", &s->clip, err));
    CK_TRY(number(doc, "clip_sample_range", 1e-6, 1e6, &s->clip_range, err));
    CK_TRY(ck_json_bool(doc, doc->root, "use_karras_sigmas", &s->karras, err));
    if (s->lcm_steps > s->train_steps) s->lcm_steps = s->train_steps;
    CK_TRY(count(doc, "original_inference_steps", 1, s->train_steps, &s->lcm_steps, err));
    CK_TRY(number(doc, "timestep_scaling", 1e-6, 1e6, &s->timestep_scaling, err));
    CK_TRY(number(doc, "shift", 1e-3, 1e3, &s->shift, err));
    CK_TRY(ck_json_bool(doc, doc->root, "use_dynamic_shifting", &s->dynamic_shift, err));
    CK_TRY(number(doc, "base_shift", -10, 10, &s->base_shift, err));
    CK_TRY(number(doc, "max_shift", -10, 10, &s->max_shift, err));
    CK_TRY(count(doc, "base_image_seq_len", 1, 1 << 24, &s->base_tokens, err));
    return count(doc, "max_image_seq_len", s->base_tokens + 1, 1 << 24, &s->max_tokens, err);
}

/* Python writes the default of lambda_min_clipped as -Infinity, which JSON does not have. A number
 * of the same length stands for it, so that lines stay; no field's text has a reason to hold the
 * word. */
static void replace_infinity(char *text) {
    for (char *at = text; (at = strstr(at, ": -Infinity"));) memcpy(at, ": -1e308   ", 11);
}

ck_status ck_schedule_read(const char *path, ck_schedule *s, ck_error *err) {
    char *text;
    size_t n;
    CK_TRY(ck_read_file(path, 1 << 20, &text, &n, err));
    replace_infinity(text);
    ck_status status = ck_schedule_parse(path, text, n, s, err);
    free(text);
    return status;
}

ck_status ck_schedule_parse(const char *name, const char *text, size_t n, ck_schedule *out,
                            ck_error *err) {
    ck_json doc;
    CK_TRY(ck_json_parse(name, text, n, &doc, err));
    ck_schedule s = ck_schedule_sd();
    ck_status status = ck_json_only(&doc, doc.root, known_fields, err);
    if (status == CK_OK) status = read_class(&doc, &s, err);
    if (status == CK_OK) status = check_unimplemented(&doc, err);
    if (status == CK_OK) status = read_choices(&doc, &s, err);
    if (status == CK_OK) status = read_values(&doc, &s, err);
    ck_json_free(&doc);
    if (status == CK_OK) *out = s;
    return status;
}

/* ---- Tables ---- */

static double squaredcos(double t) {
    double c = cos((t + 0.008) / 1.008 * M_PI / 2);
    return c * c;
}

/* As torch.linspace does it: from both ends. */
static float linspace(float first, float last, size_t n, size_t i) {
    float step = (last - first) / (float)(n - 1);
    return i < n / 2 ? first + step * (float)i : last - step * (float)(n - 1 - i);
}

static float beta(const ck_schedule *s, size_t i) {
    size_t n = s->train_steps;
    if (s->betas == CK_BETAS_SQUAREDCOS) {
        double from = squaredcos((double)i / (double)n),
               to = squaredcos((double)(i + 1) / (double)n);
        return (float)fmin(1 - to / from, 0.999);
    }
    if (s->betas == CK_BETAS_LINEAR)
        return linspace((float)s->beta_start, (float)s->beta_end, n, i);
    float root = linspace((float)sqrt(s->beta_start), (float)sqrt(s->beta_end), n, i);
    return root * root;
}

/* alpha[i] becomes the product of alpha[0] to alpha[i]: in f64, rounded to f32 at every step. */
static void accumulate(float *alpha, size_t n) {
    double product = 1;
    for (size_t i = 0; i < n; i++) {
        product *= alpha[i];
        alpha[i] = (float)product;
    }
}

/* Lin et al. (2023), "Common diffusion noise schedules and sample steps are flawed", algorithm 1:
 * square roots of abar are shifted so that the last is 0 and scaled so that the first stays. */
static void rescale_zero_snr(float *abar, size_t n) {
    float first = sqrtf(abar[0]), last = sqrtf(abar[n - 1]), before = 1;
    for (size_t i = 0; i < n; i++) {
        float root = (sqrtf(abar[i]) - last) * (first / (first - last)), now = root * root;
        /* Back to betas and to products again, for the rounding of it. */
        float beta_i = 1 - (i ? now / before : now);
        before = now;
        abar[i] = 1 - beta_i;
    }
    accumulate(abar, n);
}

void ck_schedule_alphas(const ck_schedule *s, float *abar) {
    for (size_t i = 0; i < s->train_steps; i++) abar[i] = 1 - beta(s, i);
    accumulate(abar, s->train_steps);
    if (s->zero_snr) rescale_zero_snr(abar, s->train_steps);
}

/* The arithmetic, and so what happens at ties, is numpy's (arange, linspace, round). */
void ck_spacing_timesteps(ck_spacing spacing, size_t train_steps, size_t steps_offset, size_t n,
                          bool round, double *t) {
    double last = (double)train_steps;
    double delta = (last - last / (double)n) - last;
    double step = n > 1 ? (last - 1) / (double)(n - 1) : 0;
    for (size_t i = 0; i < n; i++) {
        size_t up = n - 1 - i;
        if (spacing == CK_SPACING_LEADING) {
            t[i] = (double)(up * (train_steps / n) + steps_offset);
        } else if (spacing == CK_SPACING_TRAILING) {
            t[i] = rint(last + (double)i * delta) - 1;
        } else {
            t[i] = up && i == 0 ? last - 1 : (double)up * step;
            if (round) t[i] = rint(t[i]);
        }
    }
}

void ck_karras_sigmas(double max, double min, size_t n, double *sigma) {
    double first = pow(max, 1 / 7.), last = pow(min, 1 / 7.);
    for (size_t i = 0; i < n; i++) {
        double along = n > 1 ? (double)i / (double)(n - 1) : 0;
        sigma[i] = pow(first + along * (last - first), 7);
    }
}

double ck_flow_shift(const ck_schedule *s, size_t tokens, double t) {
    if (!s->dynamic_shift) return s->shift * t / (1 + (s->shift - 1) * t);
    double slope = (s->max_shift - s->base_shift) / (double)(s->max_tokens - s->base_tokens);
    double mu = s->base_shift + slope * ((double)tokens - (double)s->base_tokens);
    double m = s->linear_shift ? mu : exp(mu);
    return m / (m + (1 / t - 1));
}

/* ---- Levels and predictions ---- */

ck_level ck_level_vp(double abar) {
    return (ck_level){sqrt(abar), sqrt(1 - abar)};
}

ck_level ck_level_ve(double sigma) {
    return (ck_level){1, sigma};
}

ck_level ck_level_flow(double time) {
    return (ck_level){1 - time, time};
}

/* v is defined where a^2 + s^2 = 1; other levels are brought there by this factor. */
static double to_vp(ck_level level) {
    return 1 / sqrt(level.a * level.a + level.s * level.s);
}

ck_mix ck_level_target(ck_prediction prediction, ck_level level) {
    double c = to_vp(level);
    switch (prediction) {
    case CK_PREDICT_EPSILON:
        return (ck_mix){0, 1};
    case CK_PREDICT_SAMPLE:
        return (ck_mix){1, 0};
    case CK_PREDICT_V:
        return (ck_mix){-level.s * c, level.a * c};
    case CK_PREDICT_FLOW:
        break;
    }
    return (ck_mix){-1, 1};
}

ck_mix ck_level_x0(ck_prediction prediction, ck_level level) {
    double a = level.a, s = level.s, c = to_vp(level);
    switch (prediction) {
    case CK_PREDICT_EPSILON:
        return (ck_mix){1 / a, -s / a};
    case CK_PREDICT_SAMPLE:
        return (ck_mix){0, 1};
    case CK_PREDICT_V:
        return (ck_mix){a * c * c, -s * c};
    case CK_PREDICT_FLOW:
        break;
    }
    return (ck_mix){1, -s};
}

ck_mix ck_level_noise(ck_prediction prediction, ck_level level) {
    double a = level.a, s = level.s, c = to_vp(level);
    switch (prediction) {
    case CK_PREDICT_EPSILON:
        return (ck_mix){0, 1};
    case CK_PREDICT_SAMPLE:
        return (ck_mix){1 / s, -a / s};
    case CK_PREDICT_V:
        return (ck_mix){s * c * c, a * c};
    case CK_PREDICT_FLOW:
        break;
    }
    return (ck_mix){1, a};
}
