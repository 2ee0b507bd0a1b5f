/* The table of tasks, and what they share. See task.h. */
#include "distill/run/task.h"

#include "distill/run/tasks.h"
#include "io/os.h"

#include <stdlib.h>
#include <string.h>

static const ck_task_kind *const kinds[] = {&ck_task_checkerboard, &ck_task_images};

#define TASKS "checkerboard|images"

const ck_task_kind *ck_task_kind_at(size_t i) {
    return i < sizeof kinds / sizeof *kinds ? kinds[i] : NULL;
}

static const char *const walks[] = {"ddim", "heun", "consistency"};

const char *ck_walk_name(ck_walk walk) {
    return walks[walk];
}

ck_walk ck_walk_named(const char *name) {
    ck_walk walk = CK_WALK_DDIM;
    while (walk < CK_WALK_CONSISTENCY && strcmp(name, walks[walk]) != 0) walk++;
    return walk;
}

static ck_status new_task(ck_config *c, const ck_backend *backend, ck_task **t, ck_error *err) {
    size_t kind;
    CK_TRY(ck_config_choice(c, "task", TASKS, 0, &kind, err));
    *t = ck_alloc(sizeof **t);
    if (!*t) return ck_fail_memory(err, "a task");
    (*t)->kind = kinds[kind];
    (*t)->backend = backend;
    return CK_OK;
}

ck_status ck_task_open(ck_config *c, const ck_backend *backend, uint64_t seed, size_t batch,
                       ck_opening how, ck_task **out, ck_error *err) {
    ck_task *t;
    CK_TRY(new_task(c, backend, &t, err));
    t->seed = seed;
    t->how = how;
    t->shape.d[0] = (int64_t)batch;
    ck_status s = t->kind->open(t, c, err);
    if (s != CK_OK)
        ck_task_close(t);
    else
        *out = t;
    return s;
}

ck_status ck_task_cache(ck_config *c, const ck_backend *backend, ck_error *err) {
    ck_task *t;
    CK_TRY(new_task(c, backend, &t, err));
    ck_status s = t->kind->cache
                      ? t->kind->cache(t, c, err)
                      : ck_fail(err, CK_USAGE, "task '%s' has nothing to cache", t->kind->name);
    ck_task_close(t);
    return s;
}

void ck_task_close(ck_task *t) {
    if (!t) return;
    t->kind->close(t);
    ck_params_free(t->teacher.params);
    ck_params_free(t->student.params);
    ck_process_free(t->process);
    for (size_t i = 0; i < t->size_count; i++) ck_process_free(t->sizes[i].process);
    free(t->sizes);
    free(t);
}
