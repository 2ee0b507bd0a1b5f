/* A thread that is one batch ahead, see prefetch.h. */
#include "distill/run/prefetch.h"

#include "io/os.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct ck_prefetch {
    ck_data source;
    size_t context; /* numbers */
    ck_batch ahead; /* with buffers of its own */
    bool wanted;    /* the thread is to make it, or does so */
    bool made;
    ck_status status; /* of making it */
    ck_error err;
    bool quit;
    bool started;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
};

static void *work(void *self) {
    ck_prefetch *p = self;
    pthread_mutex_lock(&p->mutex);
    while (!p->quit) {
        if (!p->wanted) {
            pthread_cond_wait(&p->changed, &p->mutex);
            continue;
        }
        pthread_mutex_unlock(&p->mutex);
        ck_status s = p->source.batch(p->source.self, &p->ahead, &p->err);
        pthread_mutex_lock(&p->mutex);
        p->status = s;
        p->made = true;
        p->wanted = false;
        pthread_cond_broadcast(&p->changed);
    }
    pthread_mutex_unlock(&p->mutex);
    return NULL;
}

ck_status ck_prefetch_new(const ck_data *source, size_t x0, size_t context, ck_prefetch **out,
                          ck_error *err) {
    ck_prefetch *p = ck_alloc(sizeof *p);
    if (!p) return ck_fail_memory(err, "a batch");
    p->source = *source;
    p->context = context;
    p->ahead.x0 = ck_alloc_array(x0, sizeof(float));
    if (context) p->ahead.context = ck_alloc_array(context, sizeof(float));
    if (context) p->ahead.no_context = ck_alloc_array(context, sizeof(float));
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->changed, NULL);
    bool memory = p->ahead.x0 && (!context || (p->ahead.context && p->ahead.no_context));
    p->started = memory && pthread_create(&p->thread, NULL, work, p) == 0;
    if (p->started) {
        *out = p;
        return CK_OK;
    }
    ck_prefetch_free(p);
    return memory ? ck_fail(err, CK_IO, "no thread can be started")
                  : ck_fail_memory(err, "a batch");
}

void ck_prefetch_free(ck_prefetch *p) {
    if (!p) return;
    pthread_mutex_lock(&p->mutex);
    p->quit = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->mutex);
    if (p->started) pthread_join(p->thread, NULL);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->mutex);
    free(p->ahead.x0), free(p->ahead.context), free(p->ahead.no_context);
    free(p);
}

/* Whether a is the batch b, whoever's memory it is in. */
static bool is(const ck_batch *a, const ck_batch *b) {
    return a->seed == b->seed && a->round == b->round && a->total == b->total &&
           a->first == b->first && a->count == b->count;
}

static ck_status take(ck_prefetch *p, const ck_batch *b, ck_error *err) {
    if (p->status != CK_OK) *err = p->err;
    CK_TRY(p->status);
    memcpy(b->x0, p->ahead.x0, b->numbers * sizeof *b->x0);
    if (p->context) {
        memcpy(b->context, p->ahead.context, p->context * sizeof *b->context);
        memcpy(b->no_context, p->ahead.no_context, p->context * sizeof *b->context);
    }
    return CK_OK;
}

static ck_status batch(void *self, const ck_batch *b, ck_error *err) {
    ck_prefetch *p = self;
    pthread_mutex_lock(&p->mutex);
    while (p->wanted) pthread_cond_wait(&p->changed, &p->mutex);
    /* The thread has nothing to do now, and looks at nothing. */
    ck_status s =
        p->made && is(&p->ahead, b) ? take(p, b, err) : p->source.batch(p->source.self, b, err);
    p->made = false;
    p->ahead.seed = b->seed, p->ahead.round = b->round + 1;
    p->ahead.total = b->total, p->ahead.first = b->first, p->ahead.count = b->count;
    p->wanted = s == CK_OK;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->mutex);
    return s;
}

static size_t size_of(void *self, uint64_t seed, uint64_t round, size_t total) {
    const ck_prefetch *p = self;
    return p->source.size(p->source.self, seed, round, total);
}

ck_data ck_prefetch_data(ck_prefetch *p) {
    return (ck_data){p, batch, p->source.size ? size_of : NULL};
}
