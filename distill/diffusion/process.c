/* Moments of noise processes, see process.h. */
#include "distill/diffusion/process.h"

#include "io/os.h"

#include <math.h>
#include <stdlib.h>

struct ck_process {
    bool edm;
    double data;          /* EDM: standard deviation of the data */
    ck_schedule schedule; /* others */
    size_t tokens;        /* of flow models */
    float *abar;
};

static const double SIGMA_MIN = 0.002, SIGMA_MAX = 80, RHO = 7;

ck_status ck_process_new(const ck_schedule *schedule, size_t tokens, ck_process **out,
                         ck_error *err) {
    ck_process *p = ck_alloc(sizeof *p);
    if (!p) return ck_fail_memory(err, "a schedule");
    p->schedule = *schedule;
    p->tokens = tokens;
    if (schedule->prediction != CK_PREDICT_FLOW) {
        p->abar = ck_alloc_array(schedule->train_steps, sizeof *p->abar);
        if (!p->abar) {
            free(p);
            return ck_fail_memory(err, "a schedule");
        }
        ck_schedule_alphas(schedule, p->abar);
    }
    *out = p;
    return CK_OK;
}

ck_process *ck_process_edm(double data) {
    ck_process *p = ck_alloc(sizeof *p);
    if (p) p->edm = true, p->data = data;
    return p;
}

void ck_process_free(ck_process *p) {
    if (!p) return;
    free(p->abar);
    free(p);
}

/* ---- Moments ---- */

static ck_moment edm_moment(double sigma) {
    return (ck_moment){.a = 1, .s = sigma, .sigma = sigma, .time = log(sigma) / 4};
}

static ck_moment vp_moment(double sigma, double time) {
    if (isinf(sigma)) return (ck_moment){0, 1, sigma, time};
    double a = 1 / sqrt(1 + sigma * sigma);
    return (ck_moment){a, sigma * a, sigma, time};
}

/* Flow models are told a thousand times s. */
static ck_moment flow_moment(double s) {
    return (ck_moment){1 - s, s, s / (1 - s), 1000 * s};
}

static bool is_flow(const ck_process *p) {
    return !p->edm && p->schedule.prediction == CK_PREDICT_FLOW;
}

static double sigma_of(const ck_process *p, size_t timestep) {
    double abar = p->abar[timestep];
    return sqrt((1 - abar) / abar);
}

double ck_process_data(const ck_process *p) {
    return p->edm ? p->data : 1;
}

ck_moment ck_process_clean(void) {
    return (ck_moment){1, 0, 0, 0};
}

ck_moment ck_process_first(const ck_process *p) {
    if (p->edm) return edm_moment(SIGMA_MAX);
    if (is_flow(p)) return flow_moment(1);
    return ck_process_at_time(p, (double)p->schedule.train_steps - 1);
}

ck_moment ck_process_last(const ck_process *p) {
    return p->edm || is_flow(p) ? ck_process_clean() : ck_process_at_time(p, 0);
}

/* Between two timesteps ln sigma is interpolated, as in k-diffusion's samplers. */
ck_moment ck_process_at_time(const ck_process *p, double time) {
    if (is_flow(p)) return flow_moment(fmin(fmax(time / 1000, 0), 1));
    double last = (double)p->schedule.train_steps - 1;
    time = fmin(fmax(time, 0), last);
    size_t below = (size_t)time;
    double part = time - (double)below, sigma = sigma_of(p, below);
    if (part > 0) {
        double above = sigma_of(p, below + 1);
        sigma = exp((1 - part) * log(sigma) + part * log(above));
    }
    return vp_moment(sigma, time);
}

ck_moment ck_process_at(const ck_process *p, double sigma) {
    if (p->edm) return edm_moment(fmin(fmax(sigma, SIGMA_MIN), SIGMA_MAX));
    if (is_flow(p)) return isinf(sigma) ? flow_moment(1) : flow_moment(sigma / (1 + sigma));
    size_t low = 0, high = p->schedule.train_steps - 1;
    if (sigma <= sigma_of(p, low)) return ck_process_at_time(p, 0);
    if (sigma >= sigma_of(p, high)) return ck_process_at_time(p, (double)high);
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (sigma_of(p, middle) <= sigma)
            low = middle;
        else
            high = middle;
    }
    double from = log(sigma_of(p, low)), to = log(sigma_of(p, high));
    return vp_moment(sigma, (double)low + (log(sigma) - from) / (to - from));
}

/* The quantile of the normal distribution, by Newton's method on erfc. */
static double normal_quantile(double u) {
    double z = 0;
    u = fmin(fmax(u, 1e-9), 1 - 1e-9);
    for (int i = 0; i < 60; i++) {
        double step = (erfc(-z * M_SQRT1_2) / 2 - u) / (exp(-z * z / 2) * 0.3989422804014327);
        z -= fmin(fmax(step, -0.5), 0.5); /* far out the density is too small for whole steps */
    }
    return z;
}

ck_moment ck_process_draw(const ck_process *p, double u) {
    if (p->edm) return ck_process_at(p, exp(-1.2 + 1.2 * normal_quantile(u)));
    if (is_flow(p)) return flow_moment(ck_flow_shift(&p->schedule, p->tokens, u));
    return ck_process_at_time(p, floor(u * (double)p->schedule.train_steps));
}

void ck_process_grid(const ck_process *p, size_t n, ck_moment *grid) {
    for (size_t i = 0; i < n; i++) {
        double left = 1 - (double)i / (double)n;
        if (p->edm) {
            double low = pow(SIGMA_MIN, 1 / RHO), high = pow(SIGMA_MAX, 1 / RHO);
            grid[i] = edm_moment(pow(low + left * (high - low), RHO));
        } else if (is_flow(p)) {
            grid[i] = flow_moment(ck_flow_shift(&p->schedule, p->tokens, left));
        } else {
            double steps = (double)p->schedule.train_steps;
            grid[i] = ck_process_at_time(p, nearbyint(steps * left) - 1);
        }
    }
    grid[n] = ck_process_clean();
}

/* ---- Networks ---- */

ck_wrap ck_process_wrap(const ck_process *p, ck_moment m) {
    if (m.s == 0) return (ck_wrap){1, 1, 0};
    if (!p->edm) {
        ck_mix x0 = ck_level_x0(p->schedule.prediction, (ck_level){m.a, m.s});
        return (ck_wrap){1, x0.first, x0.second};
    }
    double d = p->data, both = sqrt(m.sigma * m.sigma + d * d);
    return (ck_wrap){1 / both, d * d / (both * both), m.sigma * d / both};
}

double ck_process_weight(const ck_process *p, ck_moment m) {
    double snr = 1 / (m.sigma * m.sigma);
    return p->edm ? snr + 1 / (p->data * p->data) : fmax(snr, 1);
}
