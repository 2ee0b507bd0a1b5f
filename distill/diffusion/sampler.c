/* A step of every sampler here is the same formula with other coefficients:
 *
 *   x' = x_keep x + x0_keep x0 + noise_keep noise + change (x0 - x0 before) + fresh z
 *
 * where x0 and noise are what the model's answer says they are. A state x = a x0 + s noise is at a
 * level (a, s): with a^2 + s^2 = 1 for DDIM and its kin, a = 1 for the Euler samplers
 * (k-diffusion's way to count), a + s = 1 for flow models. The grid says at which levels the steps
 * are, the step function what happens between two of them.
 */
#include "distill/diffusion/sampler.h"
#include "io/os.h"
#include "kernels/philox.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Plan ---- */

/* Step i goes from level i to next i, which mostly is level i + 1. */
typedef struct point {
    double timestep;
    ck_level level, next;
} point;

typedef struct plan {
    const ck_schedule *schedule;
    const float *abar; /* means nothing for flow */
    const ck_sampler_options *options;
    double eta;
    size_t steps;
    point *points;
} plan;

/* What is done with x, the predictions and fresh noise in one step. */
typedef struct coefficients {
    double x_keep, x0_keep, noise_keep, change, fresh;
} coefficients;

static double sigma_of(float abar) {
    return sqrtf((1 - abar) / abar);
}

/* numpy.interp over the table of sigmas. */
static double sigma_at(const plan *p, double t) {
    double last = (double)(p->schedule->train_steps - 1);
    if (t >= last) return sigma_of(p->abar[p->schedule->train_steps - 1]);
    size_t below = (size_t)t;
    double low = sigma_of(p->abar[below]), high = sigma_of(p->abar[below + 1]);
    return low + (high - low) * (t - (double)below);
}

/* The timestep, a fraction, whose sigma this is; between two by the logarithm, which diffusers
 * keeps in f32 (that can make the difference where the fraction is then cut off). */
static double timestep_of(const plan *p, double sigma) {
    size_t low = 0, high = p->schedule->train_steps - 1;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (sigma_of(p->abar[middle]) <= sigma)
            low = middle;
        else
            high = middle;
    }
    double log_low = (float)log(sigma_of(p->abar[low]));
    double log_high = (float)log(sigma_of(p->abar[high]));
    double along = (log(sigma) - log_low) / (log_high - log_low);
    return (double)low + fmin(fmax(along, 0), 1);
}

/* ---- Grids ---- */

/* n timesteps to t, as the schedule spaces them. */
static ck_status spread(const plan *p, size_t n, bool round, double *t, ck_error *err) {
    const ck_schedule *s = p->schedule;
    if (n <= s->train_steps) {
        ck_spacing_timesteps(s->spacing, s->train_steps, s->steps_offset, n, round, t);
        if (t[0] < (double)s->train_steps) return CK_OK;
    }
    return ck_fail(err, CK_USAGE, "%zu steps are too many for a schedule of %zu", p->steps,
                   s->train_steps);
}

static ck_level level_at(const plan *p, double t) {
    return ck_level_vp(p->abar[(size_t)t]);
}

/* DDIM goes a fixed number of timesteps back, wherever the spacing puts the next point. */
static ck_status ddim_grid(plan *p, double *t, ck_error *err) {
    const ck_schedule *s = p->schedule;
    double back = (double)(s->train_steps / p->steps);
    CK_TRY(spread(p, p->steps, true, t, err));
    for (size_t i = 0; i < p->steps; i++) {
        ck_level last = s->final_one ? (ck_level){1, 0} : level_at(p, 0);
        p->points[i] =
            (point){t[i], level_at(p, t[i]), t[i] >= back ? level_at(p, t[i] - back) : last};
    }
    return CK_OK;
}

/* Points at these sigmas; after the last comes no noise, or that of timestep 0. */
static void sigma_points(plan *p, const double *t, const double *sigma, ck_level level(double)) {
    double last = p->schedule->final_sigma_min ? sigma_of(p->abar[0]) : 0;
    for (size_t i = 0; i < p->steps; i++) {
        double next = i + 1 < p->steps ? sigma[i + 1] : last;
        p->points[i] = (point){t[i], level((float)sigma[i]), level((float)next)};
    }
}

static ck_status euler_grid(plan *p, double *t, ck_error *err) {
    double *sigma = t + p->steps;
    CK_TRY(spread(p, p->steps, false, t, err));
    for (size_t i = 0; i < p->steps; i++) sigma[i] = sigma_at(p, (float)t[i]);
    if (p->schedule->karras) {
        ck_karras_sigmas(sigma[0], sigma[p->steps - 1], p->steps, sigma);
        for (size_t i = 0; i < p->steps; i++) t[i] = timestep_of(p, sigma[i]);
    }
    sigma_points(p, t, sigma, ck_level_ve);
    return CK_OK;
}

static ck_level vp_of_sigma(double sigma) {
    return ck_level_vp(1 / (sigma * sigma + 1));
}

/* But for trailing, of one timestep more than there are steps the last is left out. */
static ck_status dpm_grid(plan *p, double *t, ck_error *err) {
    const ck_schedule *s = p->schedule;
    double *sigma = t + p->steps + 1;
    CK_TRY(spread(p, p->steps + (s->spacing != CK_SPACING_TRAILING), true, t, err));
    for (size_t i = 0; i < p->steps; i++) sigma[i] = sigma_at(p, t[i]);
    if (s->karras) {
        double max = sigma_of(p->abar[s->train_steps - 1]), min = sigma_of(p->abar[0]);
        ck_karras_sigmas(max, min, p->steps, sigma);
        for (size_t i = 0; i < p->steps; i++) {
            t[i] = timestep_of(p, sigma[i]);
            t[i] = s->betas == CK_BETAS_SQUAREDCOS ? floor(t[i]) : rint(t[i]);
        }
    }
    sigma_points(p, t, sigma, vp_of_sigma);
    return CK_OK;
}

/* Evenly among the timesteps that the distillation knew; the last step goes to timestep 0. */
static ck_status lcm_grid(plan *p, double *t, ck_error *err) {
    const ck_schedule *s = p->schedule;
    size_t stride = s->train_steps / s->lcm_steps;
    if (p->steps > s->lcm_steps)
        return ck_fail(err, CK_USAGE, "%zu steps, but the model was distilled at %zu timesteps",
                       p->steps, s->lcm_steps);
    for (size_t i = 0; i < p->steps; i++) {
        double from_top = floor((double)i * ((double)s->lcm_steps / (double)p->steps));
        t[i] = (double)((s->lcm_steps - (size_t)from_top) * stride - 1);
    }
    t[p->steps] = 0;
    for (size_t i = 0; i < p->steps; i++)
        p->points[i] = (point){t[i], level_at(p, t[i]), level_at(p, t[i + 1])};
    return CK_OK;
}

/* Times from 1 down, shifted, and then 0. trailing goes to 1 / steps, as FLUX does it; linspace to
 * the smallest time of training, as diffusers does it for SD3 (that one is then shifted twice). */
static ck_status flow_grid(plan *p, double *t, ck_error *err) {
    const ck_schedule *s = p->schedule;
    if (s->spacing == CK_SPACING_LEADING)
        return ck_fail(err, CK_USAGE,
                       "flow models have no spacing 'leading'; take trailing or linspace");
    if (s->dynamic_shift && p->options->tokens == 0)
        return ck_fail(err, CK_USAGE, "this schedule needs the number of image tokens");
    double low = 1 / (double)p->steps;
    if (s->spacing == CK_SPACING_LINSPACE) {
        low = 1 / (double)s->train_steps;
        if (!s->dynamic_shift) low = ck_flow_shift(s, 0, low);
    }
    for (size_t i = 0; i < p->steps; i++) {
        double along = p->steps > 1 ? (double)i / (double)(p->steps - 1) : 0;
        t[i] = (float)ck_flow_shift(s, p->options->tokens, 1 + along * (low - 1));
    }
    t[p->steps] = 0;
    for (size_t i = 0; i < p->steps; i++)
        p->points[i] =
            (point){t[i] * (double)s->train_steps, ck_level_flow(t[i]), ck_level_flow(t[i + 1])};
    return CK_OK;
}

/* ---- What happens in a step ---- */

/* To the next level along the predicted noise, a part of which is fresh: DDIM (Song et al., 2020,
 * equations 12 and 16), where a = 1 and eta = 1 Euler ancestral, without eta Euler, and for flow
 * models x + (t' - t) v, which is the same. */
static coefficients ddim_step(const plan *p, size_t i) {
    ck_level from = p->points[i].level, to = p->points[i].next;
    double ratio = from.a * to.s / (to.a * from.s);
    double fresh = p->eta * to.s * sqrt(fmax(1 - ratio * ratio, 0));
    return (coefficients){
        .x0_keep = to.a, .noise_keep = sqrt(fmax(to.s * to.s - fresh * fresh, 0)), .fresh = fresh};
}

/* DPM-Solver++ (Lu et al., 2022), two steps, midpoint: DDIM and a correction by the change of x0
 * since the step before. First-order where there is none, and at the end of few steps. */
static coefficients dpm_step(const plan *p, size_t i) {
    ck_level from = p->points[i].level, to = p->points[i].next;
    coefficients c = {.x0_keep = to.a, .noise_keep = to.s};
    bool last = i + 1 == p->steps;
    if (i == 0 || to.s == 0 || (last && p->steps < 15)) return c;
    ck_level before = p->points[i - 1].level;
    double ratio = from.a * to.s / (to.a * from.s); /* e^-h */
    double h = -log(ratio), h_before = log(from.a * before.s / (before.a * from.s));
    c.change = to.a * (1 - ratio) * h / (2 * h_before);
    return c;
}

/* Latent consistency models (Luo et al., 2023): to x0, bounded so that timestep 0 is kept, and back
 * to the next level by fresh noise. */
static coefficients lcm_step(const plan *p, size_t i) {
    ck_level to = p->points[i].next;
    double t = p->points[i].timestep * p->schedule->timestep_scaling, data = 0.5;
    double skip = data * data / (t * t + data * data), out = t / sqrt(t * t + data * data);
    if (i + 1 == p->steps) return (coefficients){.x_keep = skip, .x0_keep = out};
    return (coefficients){.x_keep = to.a * skip, .x0_keep = to.a * out, .fresh = to.s};
}

/* Trajectory consistency (Zheng et al., 2024): along the prediction to below the next level, by
 * eta, and back up to it by fresh noise. */
static coefficients tcd_step(const plan *p, size_t i) {
    if (i + 1 == p->steps) {
        ck_level end = p->points[i].next;
        return (coefficients){.x0_keep = end.a, .noise_keep = end.s};
    }
    double next = p->points[i + 1].timestep;
    ck_level to = p->points[i].next, below = level_at(p, floorf((float)(1 - p->eta) * (float)next));
    double up = to.a / below.a;
    return (coefficients){
        .x0_keep = to.a, .noise_keep = up * below.s, .fresh = sqrt(fmax(1 - up * up, 0))};
}

/* ---- The table ---- */

static const struct row {
    const char *name, *summary;
    double eta; /* NAN: has none */
    ck_status (*grid)(plan *p, double *t, ck_error *err);
    coefficients (*step)(const plan *p, size_t i);
    bool flow;  /* for models that predict flow, and no others */
    bool sigma; /* in sigmas, of which none may be infinite */
    bool ve;    /* states are x0 + sigma noise; models take them at variance 1 */
    bool clip;  /* cuts x0 where the schedule says so */
} rows[] = {
    {"ddim", "DDIM; --eta 1 makes it DDPM", 0, ddim_grid, ddim_step, .clip = true},
    {"euler", "Euler, deterministic", NAN, euler_grid, ddim_step, .sigma = true, .ve = true},
    {"euler_a", "Euler ancestral, with fresh noise in every step", 1, euler_grid, ddim_step,
     .sigma = true, .ve = true},
    {"dpmpp_2m", "DPM++ 2M: second order, good from 10 steps on", NAN, dpm_grid, dpm_step,
     .sigma = true},
    {"lcm", "for latent consistency models, 1 to 8 steps", NAN, lcm_grid, lcm_step, .clip = true},
    {"tcd", "for trajectory consistency models, 1 to 8 steps", 0.3, lcm_grid, tcd_step,
     .clip = false},
    {"flow_euler", "Euler for flow models (SD3, FLUX)", NAN, flow_grid, ddim_step, .flow = true},
};
enum { ROWS = sizeof rows / sizeof *rows };

const char *ck_sampler_name(size_t i) {
    return i < ROWS ? rows[i].name : NULL;
}

const char *ck_sampler_summary(size_t i) {
    return i < ROWS ? rows[i].summary : NULL;
}

/* ---- Preparation ---- */

/* A step in f32, ready to be taken. */
typedef struct step {
    float timestep, input;
    float x0_of_x, x0_of_output, noise_of_x, noise_of_output;
    float x_keep, x0_keep, noise_keep, change, fresh;
} step;

struct ck_sampler {
    size_t count, images, elements;
    uint64_t seed;
    float initial; /* what unit noise is scaled by */
    float clip;    /* of x0; infinite: none */
    step *steps;
    float *x0_before; /* of the last step; NULL where no step needs it */
};

static ck_status check(const ck_schedule *s, const char *name, const plan *p, const struct row *row,
                       ck_error *err) {
    const ck_sampler_options *o = p->options;
    if (p->steps == 0 || p->steps > s->train_steps)
        return ck_fail(err, CK_USAGE, "%zu steps; there can be 1 to %zu", p->steps, s->train_steps);
    if (o->images == 0 || o->elements == 0) return ck_fail(err, CK_USAGE, "no images to sample");
    if (row->flow && s->prediction != CK_PREDICT_FLOW)
        return ck_fail(err, CK_USAGE, "sampler '%s' is for models that predict flow", name);
    if (!row->flow && s->prediction == CK_PREDICT_FLOW)
        return ck_fail(err, CK_USAGE,
                       "sampler '%s' cannot sample models that predict flow; "
                       "flow_euler can",
                       name);
    if (isnan(o->eta)) return CK_OK;
    if (isnan(row->eta)) return ck_fail(err, CK_USAGE, "sampler '%s' has no eta", name);
    if (o->eta < 0 || o->eta > 1) return ck_fail(err, CK_USAGE, "eta is %g, not 0 to 1", o->eta);
    return CK_OK;
}

static ck_status fail_unknown(const char *name, ck_error *err) {
    char known[128] = "";
    for (size_t i = 0; i < ROWS; i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", rows[i].name);
    }
    return ck_fail(err, CK_USAGE, "no sampler '%s'; there are %s", name, known);
}

static step ready(const plan *p, const struct row *row, size_t i) {
    point at = p->points[i];
    ck_prediction prediction = p->schedule->prediction;
    ck_mix x0 = ck_level_x0(prediction, at.level), noise = ck_level_noise(prediction, at.level);
    coefficients c = row->step(p, i);
    double input = row->ve ? 1 / hypot(1, at.level.s) : 1;
    return (step){.timestep = (float)at.timestep,
                  .input = (float)input,
                  .x0_of_x = (float)x0.first,
                  .x0_of_output = (float)x0.second,
                  .noise_of_x = (float)noise.first,
                  .noise_of_output = (float)noise.second,
                  .x_keep = (float)c.x_keep,
                  .x0_keep = (float)c.x0_keep,
                  .noise_keep = (float)c.noise_keep,
                  .change = (float)c.change,
                  .fresh = (float)c.fresh};
}

/* Fills in the steps. t has room for two numbers a step and two more. */
static ck_status make_steps(ck_sampler *s, plan *p, const struct row *row, double *t,
                            ck_error *err) {
    const ck_schedule *schedule = p->schedule;
    CK_TRY(row->grid(p, t, err));
    bool changes = false;
    for (size_t i = 0; i < p->steps; i++) {
        s->steps[i] = ready(p, row, i);
        if (!isfinite(s->steps[i].x0_of_x))
            return ck_fail(err, CK_USAGE,
                           "timestep %g is pure noise, about which a model that predicts epsilon "
                           "says nothing; zero-SNR schedules need v prediction",
                           p->points[i].timestep);
        changes |= s->steps[i].change != 0;
    }
    s->initial = 1;
    if (row->ve) {
        double first = p->points[0].level.s;
        s->initial = (float)(schedule->spacing == CK_SPACING_LEADING ? hypot(first, 1) : first);
    }
    s->clip = row->clip && schedule->clip ? (float)schedule->clip_range : INFINITY;
    if (!changes) return CK_OK;
    size_t total;
    if (!__builtin_mul_overflow(s->images, s->elements, &total))
        s->x0_before = ck_alloc_array(total, sizeof *s->x0_before);
    return s->x0_before ? CK_OK : ck_fail_memory(err, "the sampler");
}

static ck_status make_plan(ck_sampler *s, plan *p, const struct row *row, ck_error *err) {
    size_t train_steps = p->schedule->train_steps;
    float *abar = ck_alloc_array(train_steps, sizeof *abar);
    double *t = ck_alloc_array(2 * p->steps + 2, sizeof *t);
    p->points = ck_alloc_array(p->steps, sizeof *p->points);
    p->abar = abar;
    ck_status status;
    if (abar && t && p->points) {
        ck_schedule_alphas(p->schedule, abar);
        /* For sigma to be finite; the value is diffusers'. */
        if (row->sigma && p->schedule->zero_snr) abar[train_steps - 1] = 0x1p-24f;
        status = make_steps(s, p, row, t, err);
    } else {
        status = ck_fail_memory(err, "the sampler");
    }
    free(abar);
    free(t);
    free(p->points);
    return status;
}

ck_status ck_sampler_start(const ck_schedule *schedule, const char *name, size_t steps,
                           const ck_sampler_options *options, ck_sampler **out, ck_error *err) {
    const struct row *row = rows;
    while (row < rows + ROWS && strcmp(row->name, name) != 0) row++;
    if (row == rows + ROWS) return fail_unknown(name, err);
    plan p = {.schedule = schedule, .options = options, .steps = steps};
    CK_TRY(check(schedule, name, &p, row, err));
    p.eta = !isnan(options->eta) ? options->eta : !isnan(row->eta) ? row->eta : 0;
    ck_sampler *s = ck_alloc(sizeof *s);
    if (!s) return ck_fail_memory(err, "the sampler");
    *s = (ck_sampler){.count = steps,
                      .images = options->images,
                      .elements = options->elements,
                      .seed = options->seed,
                      .steps = ck_alloc_array(steps, sizeof *s->steps)};
    ck_status status = s->steps ? make_plan(s, &p, row, err) : ck_fail_memory(err, "the sampler");
    if (status != CK_OK) {
        ck_sampler_free(s);
        return status;
    }
    *out = s;
    return CK_OK;
}

void ck_sampler_free(ck_sampler *s) {
    if (!s) return;
    free(s->x0_before);
    free(s->steps);
    free(s);
}

/* ---- Running ---- */

size_t ck_sampler_steps(const ck_sampler *s) {
    return s->count;
}

float ck_sampler_timestep(const ck_sampler *s, size_t i) {
    return s->steps[i].timestep;
}

void ck_sampler_noise(const ck_sampler *s, float *x) {
    for (size_t k = 0; k < s->images; k++)
        ck_philox_fill_normal(s->seed + k, 0, 0, 0, s->elements, x + k * s->elements);
}

static void scale(const ck_sampler *s, float factor, const float *x, float *out) {
    for (size_t i = 0; i < s->images * s->elements; i++) out[i] = factor * x[i];
}

void ck_sampler_initial(const ck_sampler *s, float *x) {
    scale(s, s->initial, x, x);
}

void ck_sampler_input(const ck_sampler *s, size_t i, const float *x, float *input) {
    scale(s, s->steps[i].input, x, input);
}

/* n elements; x0_before and z may be NULL where the step does not use them. */
static void take(const step *c, float clip, size_t n, float *x, const float *output,
                 float *x0_before, const float *z) {
    for (size_t i = 0; i < n; i++) {
        float x0 = c->x0_of_x * x[i] + c->x0_of_output * output[i];
        float noise = c->noise_of_x * x[i] + c->noise_of_output * output[i];
        x0 = x0 > clip ? clip : x0 < -clip ? -clip : x0; /* NaN stays */
        float next = c->x_keep * x[i] + c->x0_keep * x0 + c->noise_keep * noise;
        if (x0_before) {
            next += c->change * (x0 - x0_before[i]);
            x0_before[i] = x0;
        }
        x[i] = z ? next + c->fresh * z[i] : next;
    }
}

void ck_sampler_step(ck_sampler *s, size_t i, float *x, const float *output) {
    enum { BLOCK = 256 };
    const step *c = &s->steps[i];
    float z[BLOCK];
    for (size_t k = 0; k < s->images; k++)
        for (size_t begin = 0; begin < s->elements; begin += BLOCK) {
            size_t n = s->elements - begin < BLOCK ? s->elements - begin : BLOCK;
            size_t at = k * s->elements + begin;
            if (c->fresh != 0) ck_philox_fill_normal(s->seed + k, (uint32_t)i + 1, 0, begin, n, z);
            take(c, s->clip, n, x + at, output + at, s->x0_before ? s->x0_before + at : NULL,
                 c->fresh != 0 ? z : NULL);
        }
}
