/* AdamW, see optimizer.h. */
#include "distill/engine/optimizer.h"

#include "io/os.h"

#include <math.h>
#include <stdlib.h>

ck_optimizer *ck_optimizer_new(const ck_backend *b, const ck_trained *slices, size_t count,
                               ck_adamw settings) {
    ck_optimizer *o = ck_alloc(sizeof *o);
    if (!o) return NULL;
    o->backend = b;
    o->settings = settings;
    o->count = count;
    o->slices = ck_alloc_array(count, sizeof *o->slices);
    for (size_t i = 0; i < count; i++) o->moment_count += 2 * slices[i].n;
    o->moments = b->alloc((o->moment_count ? o->moment_count : 1) * sizeof *o->moments);
    if (!o->slices || !o->moments) {
        ck_optimizer_free(o);
        return NULL;
    }
    float *next = o->moments;
    for (size_t i = 0; i < count; i++) {
        o->slices[i] = slices[i];
        o->slices[i].first = next;
        o->slices[i].second = next + slices[i].n;
        next += 2 * slices[i].n;
    }
    ck_optimizer_reset(o);
    return o;
}

void ck_optimizer_free(ck_optimizer *o) {
    if (!o) return;
    if (o->moments) o->backend->free(o->moments);
    free(o->slices);
    free(o);
}

void ck_optimizer_reset(ck_optimizer *o) {
    o->backend->zero(o->moments, o->moment_count * sizeof *o->moments);
    o->steps = 0;
}

void ck_optimizer_squares(const ck_optimizer *o, double *there) {
    o->backend->updates->squares(o->slices, o->count, there);
}

double ck_optimizer_norm(const ck_optimizer *o, const double *squares) {
    double sum = 0;
    for (size_t i = 0; i < o->count; i++) sum += squares[i];
    return sqrt(sum);
}

void ck_optimizer_step(ck_optimizer *o, double rate, double scale) {
    const ck_adamw *a = &o->settings;
    o->steps++;
    double correct1 = 1 - pow(a->beta1, (double)o->steps);
    double correct2 = 1 - pow(a->beta2, (double)o->steps);
    const ck_adamw_step step = {.beta1 = (float)a->beta1,
                                .beta2 = (float)a->beta2,
                                .eps = (float)a->eps,
                                .scale = (float)scale,
                                .keep = (float)(1 - rate * a->decay),
                                .step = (float)(rate / correct1),
                                .root = (float)(1 / sqrt(correct2))};
    o->backend->updates->adamw(&step, o->slices, o->count);
}
