/* What a student says of itself in its metadata: that and how it was distilled, from what, and how
 * it is to be sampled. See run_int.h. */
#include "distill/run/run_int.h"

#include "merge/model_hash.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void add(ck_run_facts *f, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void add(ck_run_facts *f, const char *key, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(f->text[f->count], sizeof f->text[f->count], format, args);
    va_end(args);
    f->facts[f->count] = (ck_meta){key, f->text[f->count]};
    f->count++;
}

/* What it was made from. */
static ck_status add_origin(ck_session *r, ck_run_facts *f, ck_error *err) {
    const char *path;
    char hex[CK_SHA256_HEX];
    bool taught = r->d.method->teacher;
    CK_TRY(ck_config_path(r->config, "teacher", &path, err));
    if (!path) return CK_OK;
    CK_TRY(ck_model_hash(path, hex, NULL, NULL, err));
    const char *slash = strrchr(path, '/');
    add(f, taught ? "distilled.teacher" : "trained.from", "%s", slash ? slash + 1 : path);
    add(f, taught ? "distilled.teacher_sha256" : "trained.from_sha256", "%s", hex);
    return CK_OK;
}

static void add_counts(const ck_session *r, ck_run_facts *f) {
    char steps[128] = "";
    for (size_t i = 0; i < r->judged_count; i++)
        snprintf(steps + strlen(steps), sizeof steps - strlen(steps), "%s%zu", i ? "," : "",
                 r->judged[i]);
    if (steps[0]) add(f, "distilled.steps", "%s", steps);
}

/* The moments of the walk with most steps, as the network is told them: what samplers that space
 * them otherwise can be given. */
static void add_timesteps(const ck_session *r, ck_run_facts *f) {
    ck_moment grid[CK_RUN_MOMENTS + 1];
    char times[128] = "";
    size_t most = 0;
    for (size_t i = 0; i < r->judged_count; i++)
        if (r->judged[i] > most) most = r->judged[i];
    if (most == 0 || most > CK_RUN_MOMENTS) return;
    ck_process_grid(r->task->process, most, grid);
    for (size_t i = 0; i < most; i++)
        snprintf(times + strlen(times), sizeof times - strlen(times), "%s%.4g", i ? "," : "",
                 grid[i].time);
    add(f, "distilled.timesteps", "%s", times);
}

ck_status ck_run_tell(ck_session *r, ck_run_facts *f, ck_error *err) {
    *f = (ck_run_facts){0};
    bool taught = r->d.method->teacher;
    add(f, taught ? "distilled.method" : "trained.method", "%s", r->d.method->name);
    CK_TRY(add_origin(r, f, err));
    if (!taught) return CK_OK;
    add_counts(r, f);
    add_timesteps(r, f);
    add(f, "distilled.sampler", "%s",
        r->walk == CK_WALK_CONSISTENCY ? "lcm" : ck_walk_name(r->walk));
    add(f, "distilled.guidance_inside", "%g", r->d.guidance);
    add(f, "distilled.sampling_guidance", "%g", r->judged_guidance);
    return CK_OK;
}
