/* What methods aim at: the loss of every method, for every prediction, beside the same formula
 * written out for one sample after the other, in f64 and without the graph. Networks are a very
 * small UNet, with other weights for each role. */
#include "tests/ok.h"

#include "distill/methods/distill.h"
#include "distill/models/heads.h"
#include "distill/run/trainer.h"
#include "io/os.h"
#include "kernels/philox.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 3, SIDE = 4, CHANNELS = 4, SIZE = SIDE * SIDE * CHANNELS, TOKENS = 2, WIDTH = 8 };
enum { TEXT = TOKENS * WIDTH, GUIDANCE_WIDTH = 8 };

/* ---- Networks, asked alone ---- */

typedef struct asked {
    ck_network network;
    ck_graph *graph;
    ck_exec *exec;
    ck_node x, time, context, scale, answer;
    ck_taps taps;
} asked;

enum { TEACHER, STUDENT, AVERAGE, RIVAL, TOLD_STUDENT, TOLD_AVERAGE, ROLES };
static asked roles[ROLES];
static int student, average; /* which of them in this case */
static ck_unet_config plain, told;

/* The teacher's encoder with heads on it, asked alone: their mean answer, and what they lose on
 * data and on samples. */
static struct {
    ck_params *heads;
    ck_graph *graph;
    ck_exec *exec;
    ck_node x, time, context, answers[3];
} judge;
static const ck_backend *backend;

static void open_role(asked *r, const ck_unet_config *config, int role) {
    r->network.unet = config;
    r->network.params = ck_params_new((uint64_t)role);
    assert_non_null(r->network.params);
    r->graph = ck_graph_new();
    r->x = ck_input(r->graph, "x", CK_F32, CK_SHAPE(1, SIDE, SIDE, CHANNELS));
    r->time = ck_input(r->graph, "time", CK_F32, CK_SHAPE(1));
    r->context = ck_input(r->graph, "context", CK_F32, CK_SHAPE(1, TOKENS, WIDTH));
    r->scale = ck_input(r->graph, "scale", CK_F32, CK_SHAPE(1));
    if (config->guidance) {
        ck_unet_config copy = plain;
        ok(ck_guidance_add(r->network.params, &copy, GUIDANCE_WIDTH, &err));
    }
    ck_network tapped = r->network;
    tapped.taps = &r->taps;
    r->answer = ck_network_answer(r->graph, &tapped, r->x, r->time, r->context, r->scale);
    ok(ck_graph_check(r->graph, &err));
    ck_node outputs[CK_TAPS + 1] = {r->answer};
    memcpy(outputs + 1, r->taps.node, sizeof r->taps.node);
    /* (What guidance is embedded with begins as zeros.) */
    for (size_t i = 0; i < ck_params_count(r->network.params); i++) {
        float *w = ck_params_data(r->network.params, i);
        for (size_t k = 0; k < ck_params_elements(r->network.params, i); k++)
            w[k] += 0.1f * sinf((float)(k + i));
    }
    ok(ck_exec_new(backend, r->graph, outputs, 1 + r->taps.count, &r->exec, &err));
    ok(ck_exec_allocate(r->exec, 0, &err));
}

static void open_judge(void) {
    ck_taps taps = {0};
    ck_network teacher = roles[TEACHER].network;
    teacher.taps = &taps;
    judge.heads = ck_params_new(9);
    ck_graph *g = judge.graph = ck_graph_new();
    judge.x = ck_input(g, "x", CK_F32, CK_SHAPE(1, SIDE, SIDE, CHANNELS));
    judge.time = ck_input(g, "time", CK_F32, CK_SHAPE(1));
    judge.context = ck_input(g, "context", CK_F32, CK_SHAPE(1, TOKENS, WIDTH));
    ck_network_answer(g, &teacher, judge.x, judge.time, judge.context, CK_NONE);
    /* Two levels and the middle on the way down, two levels up. */
    assert_true(taps.encoder == 3 && taps.count == 5);
    judge.answers[0] = ck_heads_mean(g, judge.heads, &taps);
    judge.answers[1] = ck_heads_hinge(g, judge.heads, &taps, -1);
    judge.answers[2] = ck_heads_hinge(g, judge.heads, &taps, 1);
    ok(ck_exec_new(backend, g, judge.answers, 3, &judge.exec, &err));
    ok(ck_exec_allocate(judge.exec, 0, &err));
}

static void close_judge(void) {
    ck_exec_free(judge.exec), ck_graph_free(judge.graph), ck_params_free(judge.heads);
}

static void close_role(asked *r) {
    ck_exec_free(r->exec), ck_graph_free(r->graph), ck_params_free(r->network.params);
    *r = (asked){0};
}

/* ---- One case: a method, a process, N samples ---- */

typedef struct moment {
    double a, s, time;
} moment;

static ck_prediction prediction;
static ck_process *process;
static ck_distill d;
static ck_trainer *trainer;
static float no_caption[TEXT];

enum { RIVAL_RATE = 3 }; /* times the student's */

/* Data and captions of a round. */
static ck_status batch(void *self, const ck_batch *b, ck_error *e) {
    (void)self, (void)e;
    ck_philox_fill_normal(3, (uint32_t)b->round, 0, 0, N * SIZE, b->x0);
    ck_philox_fill_normal(3, (uint32_t)b->round, 1, 0, N * TEXT, b->context);
    for (int i = 0; i < N; i++) memcpy(b->no_context + i * TEXT, no_caption, sizeof no_caption);
    return CK_OK;
}

static const ck_data data = {NULL, batch, NULL};

static void begin(const char *method, const double *settings, double guidance, bool is_told) {
    memset(&d, 0, sizeof d);
    d.method = ck_distill_method_find(method);
    assert_non_null(d.method);
    size_t i = 0;
    for (; d.method->settings[i].name; i++) d.setting[i] = settings[i];
    d.loss = d.method->loss;
    d.huber = 0.01;
    d.guidance = guidance;
    d.seed = 5;
    d.steps = 3;
    d.process = process;
    d.batch = d.total = N;
    d.shape = CK_SHAPE(N, SIDE, SIDE, CHANNELS);
    student = is_told ? TOLD_STUDENT : STUDENT, average = is_told ? TOLD_AVERAGE : AVERAGE;
    d.teacher = roles[TEACHER].network, d.student = roles[student].network;
    d.average = roles[average].network, d.rival = roles[RIVAL].network;
    if (d.method->heads) d.heads = judge.heads;
    ok(ck_distill_build(&d, TOKENS, WIDTH, &err));
    const ck_trainer_settings how = {
        .accumulate = 1, .adamw = {0.9, 0.999, 1e-8, 0}, .rival = RIVAL_RATE};
    ok(ck_trainer_new(&d, backend, &how, &trainer, &err));
    ok(ck_trainer_allocate(trainer, 0, &err));
}

static void end(void) {
    ck_trainer_free(trainer);
    ck_distill_clear(&d);
}

static const float *feed(const char *name, int sample) {
    for (size_t i = 0; i < d.feed_count; i++)
        if (strcmp(d.feeds[i].name, name) == 0)
            return d.feeds[i].value + (size_t)sample * (d.feeds[i].n / N);
    fail_msg("no feed '%s'", name);
    return NULL;
}

/* Where a sample was, and that the process has it where it belongs. */
static moment at(const char *point, int sample) {
    char name[64];
    snprintf(name, sizeof name, "%s.a", point);
    double a = *feed(name, sample);
    snprintf(name, sizeof name, "%s.s", point);
    double s = *feed(name, sample);
    snprintf(name, sizeof name, "%s.time", point);
    moment m = {a, s, *feed(name, sample)};
    if (s == 0) {
        assert_true(a == 1);
    } else if (prediction == CK_PREDICT_FLOW) {
        assert_float_equal(s, m.time / 1000, 1e-6);
        assert_float_equal(a, 1 - s, 1e-6);
    } else if (m.time == floor(m.time)) {
        double abar = 1;
        for (int i = 0; i <= m.time; i++)
            abar *= 1 - pow(sqrt(.00085) + (sqrt(.012) - sqrt(.00085)) * i / 999, 2);
        assert_float_equal(a, sqrt(abar), 1e-5);
        assert_float_equal(s, sqrt(1 - abar), 1e-5);
    }
    return m;
}

/* ---- The formulas' words, on a sample ---- */

typedef struct vec {
    double v[SIZE];
} vec;

static vec loaded(const float *x) {
    vec y;
    for (int i = 0; i < SIZE; i++) y.v[i] = x[i];
    return y;
}

/* a x + b y */
static vec mix(double a, vec x, double b, vec y) {
    for (int i = 0; i < SIZE; i++) x.v[i] = a * x.v[i] + b * y.v[i];
    return x;
}

static double mean_of(vec x, double (*f)(double)) {
    double sum = 0;
    for (int i = 0; i < SIZE; i++) sum += f(x.v[i]);
    return sum / SIZE;
}

static double square(double x) {
    return x * x;
}

static double huber(double x) {
    return sqrt(x * x + 1e-4) - 0.01;
}

static double soft(double x) {
    return sqrt(x * x + 1e-8) - 1e-4;
}

static vec ask(int role, vec x, double time, const float *context, double scale) {
    asked *r = &roles[role];
    float in[SIZE], out[SIZE], t = (float)time, g = (float)scale;
    for (int i = 0; i < SIZE; i++) in[i] = (float)x.v[i];
    ok(ck_exec_write(r->exec, r->x, in, SIZE, &err));
    ok(ck_exec_write(r->exec, r->time, &t, 1, &err));
    ok(ck_exec_write(r->exec, r->context, context, TEXT, &err));
    ok(ck_exec_write(r->exec, r->scale, &g, 1, &err));
    ok(ck_exec_run(r->exec, &err));
    ok(ck_exec_read(r->exec, r->answer, out, SIZE, &err));
    return loaded(out);
}

/* The mean square of what the k-th blocks of two networks gave differently when last asked. */
static double apart(int a, int b, size_t k) {
    enum { MOST = 64 * SIDE * SIDE };
    float x[MOST], y[MOST];
    ck_shape shape = ck_node_shape(roles[a].graph, roles[a].taps.node[k]);
    size_t n = (size_t)ck_shape_count(&shape);
    double sum = 0;
    assert_true(n <= MOST);
    ok(ck_exec_read(roles[a].exec, roles[a].taps.node[k], x, n, &err));
    ok(ck_exec_read(roles[b].exec, roles[b].taps.node[k], y, n, &err));
    for (size_t i = 0; i < n; i++) sum += square(x[i] - y[i]);
    return sum / (double)n;
}

static double judged_by_heads(int answer, vec x, double time, const float *context) {
    float in[SIZE], out, t = (float)time;
    for (int i = 0; i < SIZE; i++) in[i] = (float)x.v[i];
    ok(ck_exec_write(judge.exec, judge.x, in, SIZE, &err));
    ok(ck_exec_write(judge.exec, judge.time, &t, 1, &err));
    ok(ck_exec_write(judge.exec, judge.context, context, TEXT, &err));
    ok(ck_exec_run(judge.exec, &err));
    ok(ck_exec_read(judge.exec, judge.answers[answer], &out, 1, &err));
    return out;
}

static vec x0_of(int role, vec x, moment m, const float *context, double scale) {
    if (m.s == 0) return x;
    vec f = ask(role, x, m.time, context, scale);
    switch (prediction) {
    case CK_PREDICT_EPSILON:
        return mix(1 / m.a, x, -m.s / m.a, f);
    case CK_PREDICT_SAMPLE:
        return f;
    case CK_PREDICT_V:
        return mix(m.a, x, -m.s, f);
    default:
        return mix(1, x, -m.s, f);
    }
}

static vec guided(vec x, moment m, const float *context, double scale) {
    vec with = x0_of(TEACHER, x, m, context, 1);
    if (scale == 1) return with;
    return mix(scale, with, 1 - scale, x0_of(TEACHER, x, m, no_caption, 1));
}

/* A DDIM step. */
static vec moved(vec x, vec x0, moment from, moment to) {
    vec noise = mix(1 / from.s, x, -from.a / from.s, x0);
    return mix(to.a, x0, to.s, noise);
}

static vec noisy(moment m, const float *x0, const float *noise) {
    return mix(m.a, loaded(x0), m.s, loaded(noise));
}

/* ---- Formulas ---- */

static double weight(moment m) {
    double snr = m.a * m.a / (m.s * m.s);
    return snr > 1 ? snr : 1;
}

/* The error of the network's own answer. */
static double finetune(int i, double scale) {
    (void)scale;
    moment m = at("at", i);
    vec x0 = loaded(feed("x0", i)), noise = loaded(feed("noise", i));
    vec answer =
        ask(student, noisy(m, feed("x0", i), feed("noise", i)), m.time, feed("context", i), 1);
    switch (prediction) {
    case CK_PREDICT_EPSILON:
        return mean_of(mix(1, answer, -1, noise), square);
    case CK_PREDICT_SAMPLE:
        return mean_of(mix(1, answer, -1, x0), square);
    case CK_PREDICT_V:
        return mean_of(mix(1, answer, -1, mix(m.a, noise, -m.s, x0)), square);
    default:
        return mean_of(mix(1, answer, -1, mix(1, noise, -1, x0)), square);
    }
}

static double bk(int i, double scale) {
    moment m = at("at", i);
    const float *context = feed("context", i);
    double truth = finetune(i, scale), blocks = 0;
    vec x = noisy(m, feed("x0", i), feed("noise", i));
    vec taught = ask(TEACHER, x, m.time, context, 1), own = ask(student, x, m.time, context, 1);
    for (size_t k = 0; k < 5; k++) blocks += apart(student, TEACHER, k);
    return 0.5 * truth + 2 * mean_of(mix(1, own, -1, taught), square) + 0.25 * blocks;
}

static double guidance(int i, double scale) {
    moment m = at("at", i);
    vec x = noisy(m, feed("x0", i), feed("noise", i));
    vec target = guided(x, m, feed("context", i), scale);
    vec x0 = x0_of(student, x, m, feed("context", i), scale);
    return weight(m) * mean_of(mix(1, x0, -1, target), square);
}

static double cd(int i, double scale) {
    moment t = at("from", i), r = at("to", i);
    const float *context = feed("context", i);
    vec x = noisy(t, feed("x0", i), feed("noise", i));
    vec next = moved(x, guided(x, t, context, scale), t, r);
    vec target = x0_of(average, next, r, context, scale);
    return mean_of(mix(1, x0_of(student, x, t, context, scale), -1, target), square);
}

/* 50 points: timesteps 20 apart, the last step to timestep 0, which alone keeps its x (flow: to no
 * noise at all). */
static double lcm(int i, double scale) {
    moment t = at("from", i), r = at("to", i);
    const float *context = feed("context", i);
    bool last;
    if (prediction == CK_PREDICT_FLOW) {
        assert_float_equal(r.s, t.s - 0.02, 1e-6);
        last = r.s == 0;
    } else {
        assert_true(fmod(t.time + 1, 20) == 0);
        assert_true(r.time == fmax(t.time - 20, 0));
        last = r.time == 0;
    }
    vec x = noisy(t, feed("x0", i), feed("noise", i));
    vec next = moved(x, guided(x, t, context, scale), t, r);
    vec target = last ? next : x0_of(average, next, r, context, scale);
    return mean_of(mix(1, x0_of(student, x, t, context, scale), -1, target), huber);
}

/* 40 points in 4 phases, which end at timesteps 749, 499, 249 and 0. */
static double pcm(int i, double scale) {
    moment t = at("from", i), r = at("to", i), e = at("end", i);
    const float *context = feed("context", i);
    if (prediction != CK_PREDICT_FLOW) {
        assert_true(r.time == fmax(t.time - 25, 0));
        assert_true(e.time == fmax(250 * floor(t.time / 250) - 1, 0));
    } else {
        assert_float_equal(e.s, ceil(t.s * 4 - 1e-6) / 4 - 0.25, 1e-6);
    }
    vec x = noisy(t, feed("x0", i), feed("noise", i));
    vec next = moved(x, guided(x, t, context, scale), t, r);
    bool there = r.time == e.time && r.s == e.s;
    vec target = there ? next : moved(next, x0_of(average, next, r, context, scale), r, e);
    vec f = moved(x, x0_of(student, x, t, context, scale), t, e);
    return mean_of(mix(1, f, -1, target), huber);
}

static double pd(int i, double scale) {
    moment t = at("start", i), m = at("middle", i), e = at("end", i);
    const float *context = feed("context", i);
    if (d.step >= 2) scale = 1; /* after the first halving the teacher has it inside */
    vec z = noisy(t, feed("x0", i), feed("noise", i));
    vec half = moved(z, guided(z, t, context, scale), t, m);
    vec full = moved(half, guided(half, m, context, scale), m, e);
    double ratio = e.s / t.s, way = e.a - ratio * t.a;
    vec target = mix(1 / way, full, -ratio / way, z);
    return weight(t) * mean_of(mix(1, x0_of(student, z, t, context, 1), -1, target), square);
}

static double ecd(int i, double scale) {
    moment t = at("from", i), r = at("to", i);
    const float *context = feed("context", i);
    vec x = noisy(t, feed("x0", i), feed("noise", i));
    vec next = moved(x, guided(x, t, context, scale), t, r);
    vec off = mix(1, x0_of(student, x, t, context, 1), -1, x0_of(student, next, r, context, 1));
    double size = sqrt(SIZE * mean_of(off, square) + 1e-4) - 0.01;
    return size / (t.s / t.a - r.s / r.a);
}

/* dx/dt on the circle, of data with deviation 1. */
static vec field(int role, vec x, double t, moment m, const float *context, double scale) {
    vec z;
    for (int i = 0; i < SIZE; i++) z.v[i] = x.v[i] * m.a / cos(t);
    vec x0 = role == TEACHER ? guided(z, m, context, scale) : x0_of(role, z, m, context, scale);
    return mix(cos(t) / sin(t), x, -1 / sin(t), x0);
}

static double scm(int i, double scale) {
    const double h = 0.01, trust = d.step / 10.0;
    moment m = at("at", i), before = at("before", i);
    const float *context = feed("context", i);
    double t = atan2(m.s, m.a);
    vec x = mix(cos(t), loaded(feed("x0", i)), sin(t), loaded(feed("noise", i)));
    vec motion = field(TEACHER, x, t, m, context, scale);
    vec f = field(student, x, t, m, context, 1);
    vec earlier = mix(cos(h), x, -sin(h), motion);
    vec there = field(student, earlier, t - h, before, context, 1);
    vec change = mix(cos(h) / sin(h), f, -1 / sin(h), there);
    vec g = mix(-cos(t) * cos(t), mix(1, f, -1, motion), -trust * cos(t) * sin(t),
                mix(1, x, 1, change));
    /* The loss is the mean square of g / (its size + 0.1). */
    double size = sqrt(mean_of(g, square));
    return size * size / ((size + 0.1) * (size + 0.1));
}

/* ---- Methods whose samples go on ---- */

static float captions[N][TEXT];
static vec mine[N], theirs[N]; /* where student and teacher have come to */
static double rival_expected;
static vec seen; /* samples with noise, as the teacher judges them */

/* Two steps of the student, three of the teacher for each; all samples walk together. */
static double sfd(int i, double scale) {
    (void)scale;
    moment first = prediction == CK_PREDICT_FLOW ? (moment){0, 1, 1000} : at("move", i);
    if (d.step % 2 == 0) {
        memcpy(captions[i], feed("context", i), sizeof captions[i]);
        mine[i] = theirs[i] = mix(first.s, loaded(feed("noise", i)), 0, mine[i]);
    }
    moment m[4];
    for (int k = 0; k < 4; k++) {
        double part = 1 - (double)(d.step % 2 * 3 + (uint64_t)k) / 6;
        ck_moment p = part > 0 ? prediction == CK_PREDICT_FLOW
                                     ? ck_process_at_time(process, 1000 * part)
                                     : ck_process_at_time(process, nearbyint(1000 * part) - 1)
                               : ck_process_clean();
        m[k] = (moment){p.a, p.s, p.time};
    }
    for (int k = 0; k < 3; k++)
        theirs[i] = moved(theirs[i], guided(theirs[i], m[k], captions[i], 2), m[k], m[k + 1]);
    mine[i] = moved(mine[i], x0_of(student, mine[i], m[0], captions[i], 1), m[0], m[3]);
    return mean_of(mix(1, mine[i], -1, theirs[i]), soft);
}

/* Two steps; sample i begins when step + i is even, all begin at step 0. */
static double dmd(int i, double scale) {
    moment at_ = at("at", i), judged = at("judged", i), learned = at("learned", i);
    size_t k = d.step ? (d.step + (size_t)i) % 2 : 0;
    if (k == 0) {
        memcpy(captions[i], feed("context", i), sizeof captions[i]);
        mine[i] = mix(at_.s, loaded(feed("noise", i)), 0, mine[i]);
    }
    assert_true(prediction == CK_PREDICT_FLOW ? at_.s == (k ? 0.5 : 1)
                                              : at_.time == (k ? 499 : 999));
    /* With no more noise than it met (of two steps that is half of the moments). */
    assert_true(judged.s <= at_.s && learned.s <= at_.s);
    vec x = x0_of(student, mine[i], at_, captions[i], 1);
    vec z = mix(judged.a, x, judged.s, loaded(feed("noise of the judged", i)));
    vec real = guided(z, judged, captions[i], scale);
    /* The rival is told the step, in the place of guidance. */
    vec push = mix(1, x0_of(RIVAL, z, judged, captions[i], 1 + (double)k), -1, real);
    double size = 0.2 + mean_of(mix(1, x, -1, real), fabs);
    double out = prediction == CK_PREDICT_EPSILON  ? at_.s / at_.a
                 : prediction == CK_PREDICT_SAMPLE ? 1
                                                   : at_.s;
    vec y = mix(learned.a, x, learned.s, loaded(feed("noise of the learned", i)));
    vec guess = x0_of(RIVAL, y, learned, captions[i], 1 + (double)k);
    rival_expected += weight(learned) * mean_of(mix(1, guess, -1, x), square) / N;
    moment next = at("next", i);
    assert_true(k ? next.s == 0 : next.time == (prediction == CK_PREDICT_FLOW ? 500 : 499));
    mine[i] = mix(next.a, x, next.s, loaded(feed("noise of the next", i)));
    seen = z;
    return mean_of(push, square) / (size * size) / 2 / sqrt(out);
}

static double dmd2(int i, double scale) {
    double loss = dmd(i, scale);
    moment m = at("judged", i);
    vec x = noisy(m, feed("x0", i), feed("noise of the data", i));
    rival_expected += judged_by_heads(1, x, m.time, feed("context", i)) / N +
                      judged_by_heads(2, seen, m.time, captions[i]) / N;
    return loss - 0.5 * judged_by_heads(0, seen, m.time, captions[i]);
}

/* ---- All of them ---- */

typedef double (*formula)(int sample, double scale);

static const struct {
    const char *method;
    formula expected;
    double settings[CK_DISTILL_SETTINGS];
    double guidance;
    bool told; /* the student is told the scale, which is drawn */
} cases[] = {
    {"finetune", finetune, {0}, 1, false},
    {"bk", bk, {0.5, 2, 0.25}, 1, false},
    {"guidance", guidance, {1, 0}, 3, false},
    {"guidance", guidance, {1.5, 4}, 1, true},
    {"cd", cd, {18}, 2, false},
    {"lcm", lcm, {50, 1, 0}, 2, false},
    {"lcm", lcm, {50, 2, 5}, 2, true},
    {"pcm", pcm, {40, 4, 1, 0}, 1, false},
    {"pcm", pcm, {40, 4, 2, 5}, 2, true},
    {"pd", pd, {16, 4}, 2, false},
    {"ecd", ecd, {-1.1, 2, 2, 8, 2}, 2, false},
    {"sfd", sfd, {2, 3}, 2, false},
    {"scm", scm, {-1, 1.4, 10, 0.01}, 2, false},
    {"dmd", dmd, {1, 2, 0.5, 0.2}, 2, false},
    {"dmd2", dmd2, {1, 2, 0.5, 0.2, 0.5}, 2, false},
};

static void near(double a, double b, const char *method) {
    double tolerance = 2e-3 * fabs(b) + 1e-6;
    if (!(fabs(a - b) <= tolerance))
        print_error("%s, prediction %d, step %d: %.8g, not %.8g\n", method, (int)prediction,
                    (int)d.step, a, b);
    assert_true(fabs(a - b) <= tolerance);
}

static void check(size_t c) {
    ck_trainer_report report;
    begin(cases[c].method, cases[c].settings, cases[c].guidance, cases[c].told);
    for (d.step = 0; d.step < d.steps; d.step++) {
        ok(ck_trainer_run(trainer, &data, &report, &err));
        double expected = rival_expected = 0;
        for (int i = 0; i < N; i++) {
            double scale = cases[c].told ? *feed("guidance", i) : cases[c].guidance;
            if (cases[c].told) assert_true(scale >= 1.5 && scale < 5 && scale != 2);
            expected += cases[c].expected(i, scale) / N;
        }
        near(report.loss, expected, cases[c].method);
        if (d.part_count > 1) near(report.rival_loss, rival_expected, cases[c].method);
        assert_true(report.norm > 0);
    }
    end();
}

static float *copy_of(const ck_params *params) {
    size_t n = ck_params_elements(params, 0);
    float *copy = malloc(n * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, ck_params_data(params, 0), n * sizeof *copy);
    return copy;
}

/* The most that a number has changed. Releases before. */
static double most_moved(const ck_params *params, float *before) {
    double most = 0;
    for (size_t i = 0; i < ck_params_elements(params, 0); i++)
        most = fmax(most, fabs((double)ck_params_data(params, 0)[i] - before[i]));
    free(before);
    return most;
}

/* AdamW's first step is the rate, whatever the gradient. */
static void check_rates(void) {
    static const double settings[] = {1, 2, 0.5, 0.2, 0.5};
    ck_trainer_report report;
    begin("dmd2", settings, 2, false);
    ok(ck_trainer_run(trainer, &data, &report, &err));
    float *student_before = copy_of(d.student.params), *rival_before = copy_of(d.rival.params);
    ok(ck_trainer_update(trainer, 1e-3, &err));
    assert_float_equal(most_moved(d.student.params, student_before), 1e-3, 1e-5);
    assert_float_equal(most_moved(d.rival.params, rival_before), RIVAL_RATE * 1e-3, 1e-5);
    end();
}

static void test_losses(void **state) {
    (void)state;
    omp_set_num_threads(1); /* threads that wait for each other cost more than this work */
    ok(ck_backend_open("cpu", &backend, &err));
    plain = (ck_unet_config){
        .in_channels = CHANNELS,
        .out_channels = CHANNELS,
        .level = {{.channels = 8, .heads = 2, .layers = 1, .depth = {1}},
                  {.channels = 8, .heads = 2, .layers = 1}},
        .levels = 2,
        .mid = 1,
        .context = WIDTH,
        .groups = 2,
        .eps = 1e-5,
        .flip = true,
    };
    told = plain;
    told.guidance = GUIDANCE_WIDTH;
    ck_philox_fill_normal(3, 0, 9, 0, TEXT, no_caption);
    for (int k = 0; k < ROLES; k++) open_role(&roles[k], k < RIVAL ? &plain : &told, k);
    open_judge();
    for (int k = CK_PREDICT_EPSILON; k <= CK_PREDICT_FLOW; k++) {
        ck_schedule s = ck_schedule_sd();
        prediction = s.prediction = (ck_prediction)k;
        s.shift = 1;
        ok(ck_process_new(&s, 0, &process, &err));
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) check(c);
        if (k == CK_PREDICT_EPSILON) check_rates();
        ck_process_free(process);
    }
    close_judge();
    for (int k = 0; k < ROLES; k++) close_role(&roles[k]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_losses)};
    return cmocka_run_group_tests_name("distill", tests, NULL, NULL);
}
