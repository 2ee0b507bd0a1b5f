/* Worker threads over chunks of the output file.
 *
 * DESIGN
 * A chunk is a page-aligned piece of the output file (4 MiB, less when many threads share the
 * memory budget). A worker goes over the tensors in its chunk. Where the plan says that the bytes
 * are a model's own, they are read straight into the chunk. Elsewhere blocks of elements are read
 * from every model, and strips of a block, small enough for the L1 cache, go through decode, the
 * steps of the expression, and encode, which leaves them in the chunk: memory is touched once.
 * The header is just the first bytes of the first chunk. Chunks are written with direct I/O where
 * possible (see writer.h); as a thread sleeps while its write is under way, there are a few more
 * than processors.
 *
 * Methods that look at whole tensors (SLERP, TIES, ...) prepare before: one tensor by one thread,
 * strips in order. What some of them find is as large as the tensor; so the work is cut into rounds
 * of as many tensors as may be prepared at once, and a round writes its tensors before the next
 * begins. Nor is a round longer than the page cache remembers: what was prepared is read again.
 * Where a round ends within a chunk, the chunk waits in a buffer of its own.
 *
 * Several outputs of the same models (ck_run_several): whoever takes a chunk makes it for all of
 * them, one after the other in the same buffers, and holds what it has read of the models until the
 * last has it; so the models are read once and memory does not depend on how many outputs there
 * are. (The same chunk of another output may begin a few bytes earlier or later, as their headers
 * are not of one length; these bytes are read again.) Where tensors are prepared, outputs take
 * turns round by round instead. A round has then no more tensors than take the memory of the
 * largest one, of all models together, and these are read before it and held until the last output
 * has them.
 *
 * Going on where a killed run was (resume): the chunks that are done are noted (io/partial.h) and
 * skipped, and of a round only the tensors are prepared that have chunks to come.
 *
 * Hashes. Models are hashed by threads of their own that read the file from start to end while the
 * workers read it too: the tensors of a model seldom lie in the order in which the output needs
 * them. Whoever is ahead brings the data from the disk, the other finds them in the page cache, so
 * that the disk is read once. The output is hashed chunk after chunk, each by the worker that wrote
 * it, waiting for its turn.
 */
#include "merge/engine.h"
#include "io/os.h"
#include "io/partial.h"
#include "merge/model_hash.h"
#include "merge/store.h"
#include "merge/whole.h"

#include <math.h>
#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    MEMORY_BUDGET = 36 << 20, /* bytes of all workers' buffers; with the tables below 64 MiB */
    MAX_CHUNK = 4 << 20,
    MIN_CHUNK = 128 << 10,
    MAX_BLOCK = 64 << 10,   /* elements */
    LORA_BLOCK = 256 << 10, /* rows of a product are cheaper by the dozen */
    MIN_BLOCK = CK_STRIP,
    MAX_THREADS = 64,
    WRITES_UNDER_WAY = 4,     /* keep the disk busy; more brought nothing */
    ROUND_BUDGET = 8 << 20,   /* bytes that prepared tensors take together, if not one takes more */
    RESUME_ROUND = 256 << 20, /* bytes of output in a round, when it may be gone on with later */
    READ_ROUND = 1 << 30,     /* bytes of the models in a round, which is read at least twice */
    STORE_BUDGET = 8 << 20,   /* bytes of the models that several outputs hold, or more for a
                               * single tensor */
    MAX_HELD = 256,           /* pieces of the models, of a chunk */
    CARRY_BUDGET = 8 << 20,   /* bytes that all outputs' carries take */
};

/* What all workers share. */
typedef struct run {
    const ck_plan *plan;
    const ck_run_options *options;
    const ck_kernels *kernels;
    struct run *all; /* the outputs, of which this is one */
    size_t outputs;
    ck_store store;      /* of the first: what the round reads of the models, of several outputs */
    size_t together;     /* from this one on, so many are made at once, chunk by chunk */
    size_t held_bytes;   /* that a worker can hold of the models for them */
    ck_writer *writer;   /* of partial, where there is one */
    ck_partial *partial; /* NULL: what is interrupted is dropped */
    size_t chunk_bytes, block_elements;
    bool makes_rows;   /* of LoRAs */
    size_t leaf_bytes; /* of one element of all leaves, at most, of all outputs */
    unsigned registers;
    uint64_t chunk_count;
    _Atomic uint64_t next_chunk;
    _Atomic size_t next_task; /* to be prepared */
    size_t round_tasks;       /* the round prepares tasks before this one */
    uint64_t round_end;       /* and writes the file up to here */
    uint64_t carried;         /* so far an earlier round came: within the next chunk */
    unsigned char *carry;     /* that chunk, as far as it is filled; NULL where none waits */
    uint64_t carry_clipped;   /* values in it */
    uint64_t round_bytes;     /* of output, that a round has at most, but for one tensor */
    uint64_t store_bytes;     /* of the models, that a round has at most, of several outputs */
    bool prepares;            /* some task, of some output, looks at its whole tensor */
    bool hashes_models;
    _Atomic size_t next_model; /* to be hashed */
    _Atomic uint64_t *clipped; /* one for each task */
    ck_run_result *result;

    _Atomic bool failed; /* everybody stops */
    pthread_mutex_t lock;
    ck_error error; /* the first one; under lock */

    ck_sha256 *output_hash;      /* used by the one whose turn it is */
    pthread_cond_t turn_changed; /* under lock */
    uint64_t turn;               /* the chunk that is hashed next; under lock */
} run;

/* What is held of the models while the outputs' chunks are made. */
typedef struct held {
    const ck_tensor *tensor;
    uint64_t begin, end; /* bytes of the tensor */
    const unsigned char *data;
} held;

/* One worker's buffers. */
typedef struct worker {
    run *run;
    unsigned char *chunk;
    unsigned char *raw;  /* the leaves' blocks as they were read, one after another */
    float *strips;       /* max_registers strips */
    unsigned char *kept; /* held_bytes, of which `kept_bytes` are in use */
    size_t kept_bytes, piece_count;
    held pieces[MAX_HELD];
    uint64_t clipped; /* values, of the chunk, and a task that had some */
    size_t clipped_task;
    ck_error error;
} worker;

/* With one output, all fail. */
static void fail(run *r, const ck_error *error) {
    for (size_t i = 0; i < r->outputs; i++) {
        run *one = &r->all[i];
        pthread_mutex_lock(&one->lock);
        if (!one->failed) one->error = *error;
        one->failed = true;
        pthread_cond_broadcast(&one->turn_changed);
        pthread_mutex_unlock(&one->lock);
    }
}

static ck_status check_cancel(const run *r, ck_error *err) {
    if (r->options->cancel && *r->options->cancel)
        return ck_fail(err, CK_CANCELLED, r->partial ? "stopped" : "stopped; nothing was written");
    return CK_OK;
}

static size_t element_bytes(ck_dtype dtype) {
    return ck_dtype_bits(dtype) / 8;
}

/* sum over i of coefficients[i] in[i]. */
static void combine_block(const ck_kernels *k, const ck_step *step, const float *const *in,
                          float *out, size_t n) {
    const double *coefficients = *step->found;
    k->scale(out, in[0], (float)coefficients[0], n);
    for (unsigned i = 1; i < step->input_count; i++)
        if (coefficients[i] != 0) k->accumulate(out, in[i], (float)coefficients[i], n);
}

static ck_arguments arguments(const ck_task *task, const ck_step *step, uint64_t first) {
    return (ck_arguments){.values = step->values,
                          .inputs = step->input_count,
                          .compat = step->compat,
                          .stored = step->stored,
                          .shape = task->mixed_shape,
                          .rank = task->out.rank,
                          .elements = task->mixed_elements,
                          .key = task->key,
                          .first = first,
                          .found = step->found ? *step->found : NULL,
                          .survey = step->survey ? step->survey->found : NULL};
}

/* The registers of n <= CK_STRIP elements, starting at element `at` of the block in w->raw: all
 * leaves and the first `steps` steps. first: number of the first element in what is mixed. */
static void eval_registers(worker *w, const ck_task *task, unsigned steps, uint64_t first,
                           size_t at, size_t n, const float **registers) {
    const run *r = w->run;
    const unsigned char *block = w->raw;
    for (unsigned i = 0; i < task->leaf_count; i++) {
        ck_dtype dtype = task->leaves[i].tensor->dtype;
        const unsigned char *raw = block + at * element_bytes(dtype);
        block += r->block_elements * element_bytes(dtype);
        float *strip = w->strips + (size_t)i * CK_STRIP;
        r->kernels->decode[dtype](strip, raw, n);
        registers[i] = strip;
    }
    for (unsigned s = 0; s < steps; s++) {
        const ck_step *step = &task->steps[s];
        float *out = w->strips + (size_t)(task->leaf_count + s) * CK_STRIP;
        registers[task->leaf_count + s] = out;
        const float *inputs[CK_MAX_MODELS];
        for (unsigned i = 0; i < step->input_count; i++) inputs[i] = registers[step->inputs[i]];
        ck_arguments args = arguments(task, step, first);
        if (!step->method)
            for (size_t i = 0; i < n; i++) out[i] = (float)step->constant;
        else if (step->combines)
            combine_block(r->kernels, step, inputs, out, n);
        else
            step->method->block(r->kernels, &args, inputs, out, n);
    }
}

/* ---- Reading ---- */

/* The piece that has a tensor's byte `begin`, or NULL; *n is then cut to what it has, else to where
 * the next one begins. */
static const held *find_held(const worker *w, const ck_tensor *tensor, uint64_t begin, size_t *n) {
    for (size_t i = 0; i < w->piece_count; i++) {
        const held *p = &w->pieces[i];
        if (p->tensor != tensor || p->end <= begin || p->begin >= begin + *n) continue;
        *n = p->begin > begin      ? (size_t)(p->begin - begin)
             : p->end < begin + *n ? (size_t)(p->end - begin)
                                   : *n;
        if (p->begin <= begin) return p;
    }
    return NULL;
}

/* Keeps what was read, where there is room. */
static void hold(worker *w, const ck_tensor *tensor, uint64_t begin, const void *data, size_t n) {
    held *last = w->piece_count ? &w->pieces[w->piece_count - 1] : NULL;
    if (n > w->run->held_bytes - w->kept_bytes) return;
    unsigned char *to = w->kept + w->kept_bytes;
    if (last && last->tensor == tensor && last->end == begin) {
        last->end += n;
    } else {
        if (w->piece_count == MAX_HELD) return;
        w->pieces[w->piece_count++] = (held){tensor, begin, begin + n, to};
    }
    memcpy(to, data, n);
    w->kept_bytes += n;
}

/* n bytes of a leaf, from its byte `begin` on, to dst. */
static ck_status read_leaf(worker *w, const ck_leaf *leaf, uint64_t begin, void *dst, size_t n,
                           ck_error *err) {
    const ck_tensor *t = leaf->tensor;
    const ck_reader *reader = w->run->plan->readers[leaf->model];
    const unsigned char *stored = ck_store_find(&w->run->all->store, t);
    if (stored) {
        memcpy(dst, stored + begin, n);
        return CK_OK;
    }
    if (!w->kept) return ck_reader_read(reader, t, begin, dst, n, err);
    for (unsigned char *to = dst; n > 0;) {
        size_t count = n;
        const held *p = find_held(w, t, begin, &count);
        if (p) {
            memcpy(to, p->data + (begin - p->begin), count);
        } else {
            CK_TRY(ck_reader_read(reader, t, begin, to, count, err));
            hold(w, t, begin, to, count);
        }
        begin += count;
        to += count;
        n -= count;
    }
    return CK_OK;
}

/* Reads n elements of every leaf to w->raw, from element leaf_first[i] + skip of leaf i. */
static ck_status read_block(worker *w, const ck_task *task, const uint64_t *leaf_first,
                            uint64_t skip, size_t n, ck_error *err) {
    const run *r = w->run;
    CK_TRY(check_cancel(r, err));
    unsigned char *block = w->raw;
    for (unsigned i = 0; i < task->leaf_count; i++) {
        const ck_leaf *leaf = &task->leaves[i];
        size_t size = element_bytes(leaf->tensor->dtype);
        CK_TRY(read_leaf(w, leaf, (leaf_first[i] + skip) * size, block, n * size, err));
        block += r->block_elements * size;
    }
    return CK_OK;
}

/* n elements of a leaf's part that is mixed, from its element first on: of the first input
 * channels. */
static ck_status read_channels(worker *w, const ck_task *task, const ck_leaf *leaf, uint64_t first,
                               size_t n, unsigned char *dst, ck_error *err) {
    const uint64_t *shape = task->mixed_shape;
    uint64_t plane = shape[2] * shape[3], mixed = shape[1] * plane;
    size_t size = element_bytes(leaf->tensor->dtype);
    while (n) {
        uint64_t row = first / mixed, in_row = first % mixed, left = mixed - in_row;
        size_t count = left < n ? (size_t)left : n;
        uint64_t begin = row * leaf->tensor->shape[1] * plane + in_row;
        CK_TRY(read_leaf(w, leaf, begin * size, dst, count * size, err));
        dst += count * size;
        first += count;
        n -= count;
    }
    return CK_OK;
}

/* Reads elements [first, first + n) of what is mixed, of every leaf, to w->raw. */
static ck_status read_mixed(worker *w, const ck_task *task, uint64_t first, size_t n,
                            ck_error *err) {
    const uint64_t from_start[CK_MAX_MODELS] = {0};
    if (!task->channels) return read_block(w, task, from_start, first, n, err);
    CK_TRY(check_cancel(w->run, err));
    unsigned char *block = w->raw;
    for (unsigned i = 0; i < task->leaf_count; i++) {
        CK_TRY(read_channels(w, task, &task->leaves[i], first, n, block, err));
        block += w->run->block_elements * element_bytes(task->leaves[i].tensor->dtype);
    }
    return CK_OK;
}

/* Strips end at multiples of CK_STRIP, since random numbers are drawn by the dozen. */
static size_t strip_length(uint64_t first, size_t left) {
    size_t strip = CK_STRIP - (size_t)(first % CK_STRIP);
    return strip < left ? strip : left;
}

/* Of the n elements of a tensor from `from` on, those of the next block. Where rows are made that
 * no file holds it ends with one, if it can: a piece of a row costs as much as four. */
static size_t block_length(const run *r, const ck_tensor *out, uint64_t from, uint64_t n) {
    if (n <= r->block_elements) return (size_t)n;
    uint64_t row = r->makes_rows && out->rank ? out->elements / out->shape[0] : 1;
    uint64_t over = (from + r->block_elements) % row;
    return r->block_elements - (over < r->block_elements ? (size_t)over : 0);
}

/* n elements of the output to dst, from elements leaf_first[i]... of leaf i; first: number of the
 * first in what is mixed. */
static ck_status eval(worker *w, const ck_task *task, unsigned result, uint64_t first,
                      const uint64_t *leaf_first, uint64_t n, unsigned char *dst, uint64_t *clipped,
                      ck_error *err) {
    const run *r = w->run;
    const float *registers[CK_MAX_MODELS + CK_MAX_STEPS];
    size_t out_size = element_bytes(task->out.dtype);
    for (uint64_t done = 0; done < n;) {
        size_t block = block_length(r, &task->out, first + done, n - done);
        CK_TRY(read_block(w, task, leaf_first, done, block, err));
        for (size_t at = 0, strip; at < block; at += strip) {
            strip = strip_length(first + done + at, block - at);
            eval_registers(w, task, task->step_count, first + done + at, at, strip, registers);
            *clipped += r->kernels->encode[task->out.dtype](dst, registers[result], strip);
            dst += strip * out_size;
        }
        done += block;
    }
    return CK_OK;
}

/* ---- Methods that look at whole tensors ---- */

/* Where a method's prepare reads. */
typedef struct whole {
    ck_pass pass;
    worker *worker;
    const ck_task *task;
    unsigned step;
} whole;

/* Evaluates the steps before this one over the whole tensor and shows its inputs to `visit`. Strips
 * begin at multiples of CK_STRIP whatever the size of the blocks. */
static ck_status each_strip(const ck_pass *pass, ck_visit *visit, void *context, ck_error *err) {
    const whole *p = (const whole *)pass;
    const ck_task *task = p->task;
    const ck_step *step = &task->steps[p->step];
    const float *registers[CK_MAX_MODELS + CK_MAX_STEPS], *inputs[CK_MAX_MODELS];
    for (uint64_t done = 0; done < task->mixed_elements;) {
        uint64_t left = task->mixed_elements - done;
        size_t limit = p->worker->run->block_elements;
        size_t block = left < limit ? (size_t)left : limit;
        CK_TRY(read_mixed(p->worker, task, done, block, err));
        for (size_t at = 0; at < block; at += CK_STRIP) {
            size_t strip = block - at < CK_STRIP ? block - at : CK_STRIP;
            eval_registers(p->worker, task, p->step, done + at, at, strip, registers);
            for (unsigned i = 0; i < step->input_count; i++) inputs[i] = registers[step->inputs[i]];
            visit(context, inputs, done + at, strip);
        }
        done += block;
    }
    return CK_OK;
}

/* The coefficients of a method that combines its inputs. */
static ck_status find_coefficients(const ck_method *method, const ck_arguments *args,
                                   const ck_pass *pass, void **found, ck_error *err) {
    double *gram = ck_alloc_array(args->inputs * args->inputs, sizeof *gram);
    double *coefficients = ck_alloc_array(args->inputs, sizeof *coefficients);
    *found = coefficients;
    if (!gram || !coefficients) {
        free(gram);
        return ck_fail_memory(err, "merge buffers");
    }
    ck_status status = ck_whole_products(pass, args->inputs, gram, err);
    if (status == CK_OK) method->combine(args, gram, coefficients);
    free(gram);
    return status;
}

static ck_status prepare_step(worker *w, const ck_task *task, unsigned s, ck_error *err) {
    const ck_step *step = &task->steps[s];
    if (!step->found) return CK_OK;
    whole p = {.pass = {each_strip}, .worker = w, .task = task, .step = s};
    ck_arguments args = arguments(task, step, 0);
    return step->combines ? find_coefficients(step->method, &args, &p.pass, step->found, err)
                          : step->method->prepare(&args, &p.pass, step->found, err);
}

/* ---- What tensors leave for all others ---- */

static ck_status survey_step(worker *w, const ck_task *task, unsigned s, ck_error *err) {
    const ck_step *step = &task->steps[s];
    if (!step->survey) return CK_OK;
    whole p = {.pass = {each_strip}, .worker = w, .task = task, .step = s};
    ck_arguments args = arguments(task, step, 0);
    ck_survey own = {0};
    ck_status status = step->method->survey(&args, &p.pass, &own, err);
    pthread_mutex_lock(&w->run->lock);
    for (size_t i = 0; i < own.count && status == CK_OK; i++)
        if (!ck_survey_add(step->survey, own.numbers[i])) status = ck_fail_memory(err, "survey");
    pthread_mutex_unlock(&w->run->lock);
    free(own.numbers);
    return status;
}

static bool next_survey(worker *w, ck_status *status) {
    size_t index = atomic_fetch_add(&w->run->next_task, 1);
    if (index >= w->run->round_tasks) return false;
    const ck_task *task = &w->run->plan->tasks[index];
    for (unsigned s = 0; s < task->step_count && *status == CK_OK; s++)
        *status = survey_step(w, task, s, &w->error);
    return true;
}

/* Bytes that a task's prepared steps take at most. */
static uint64_t needed(const ck_task *task) {
    uint64_t bytes = 0;
    for (unsigned s = 0; s < task->step_count; s++) {
        const ck_step *step = &task->steps[s];
        ck_arguments args = arguments(task, step, 0);
        if (step->found && step->method->needs) bytes += step->method->needs(&args);
    }
    return bytes;
}

static void forget(const ck_task *task) {
    for (unsigned s = 0; s < task->step_count; s++)
        if (task->steps[s].found) {
            free(*task->steps[s].found);
            *task->steps[s].found = NULL;
        }
}

/* As eval, for a task in which only the first input channels are mixed: row by row of the output
 * channels, first the mixed part, then A's own. */
static ck_status eval_channels(worker *w, const ck_task *task, uint64_t first, uint64_t n,
                               unsigned char *dst, uint64_t *clipped, ck_error *err) {
    const uint64_t *shape = task->out.shape;
    uint64_t plane = shape[2] * shape[3], row = shape[1] * plane, mixed = task->channels * plane;
    size_t out_size = element_bytes(task->out.dtype);
    for (uint64_t end = first + n; first < end;) {
        uint64_t o = first / row, in_row = first % row;
        bool mix = in_row < mixed;
        uint64_t stop = o * row + (mix ? mixed : row);
        uint64_t count = (stop < end ? stop : end) - first;
        if (!mix && task->leaves[0].tensor->dtype == task->out.dtype) {
            CK_TRY(read_leaf(w, &task->leaves[0], first * out_size, dst, count * out_size, err));
        } else {
            ck_task part = *task;
            uint64_t leaf_first[CK_MAX_MODELS];
            if (!mix) part.leaf_count = 1, part.step_count = 0;
            for (unsigned i = 0; i < part.leaf_count; i++) {
                uint64_t leaf_row = task->leaves[i].tensor->shape[1] * plane;
                leaf_first[i] = o * leaf_row + in_row;
            }
            CK_TRY(eval(w, &part, mix ? task->result : 0, o * mixed + in_row, leaf_first, count,
                        dst, clipped, err));
        }
        dst += count * out_size;
        first += count;
    }
    return CK_OK;
}

/* n bytes of a task's output, starting at byte begin of it, to dst. */
static ck_status fill(worker *w, size_t index, uint64_t begin, size_t n, unsigned char *dst,
                      ck_error *err) {
    const ck_task *task = &w->run->plan->tasks[index];
    if (task->raw) return read_leaf(w, &task->leaves[0], begin, dst, n, err);
    size_t size = element_bytes(task->out.dtype);
    uint64_t first = begin / size, count = n / size, clipped = 0;
    uint64_t leaf_first[CK_MAX_MODELS];
    for (unsigned i = 0; i < task->leaf_count; i++) leaf_first[i] = first;
    CK_TRY(task->channels
               ? eval_channels(w, task, first, count, dst, &clipped, err)
               : eval(w, task, task->result, first, leaf_first, count, dst, &clipped, err));
    if (clipped) {
        atomic_fetch_add(&w->run->clipped[index], clipped);
        w->clipped += clipped;
        w->clipped_task = index;
    }
    return CK_OK;
}

/* The number of the first task whose data end behind this offset. */
static size_t first_task_after(const ck_plan *plan, uint64_t offset) {
    size_t low = 0, high = plan->task_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (plan->tasks[middle].offset + plan->tasks[middle].out.nbytes > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Waits until every chunk before this one is hashed, and hashes it. */
static void hash_chunk(run *r, uint64_t index, const void *data, size_t n) {
    pthread_mutex_lock(&r->lock);
    while (r->turn != index && !r->failed) pthread_cond_wait(&r->turn_changed, &r->lock);
    bool go = !r->failed;
    pthread_mutex_unlock(&r->lock);
    if (!go) return;
    ck_sha256_update(r->output_hash, data, n);
    pthread_mutex_lock(&r->lock);
    r->turn++;
    pthread_cond_broadcast(&r->turn_changed);
    pthread_mutex_unlock(&r->lock);
}

/* Bytes [begin, end) of the output file to dst. */
static ck_status fill_range(worker *w, uint64_t begin, uint64_t end, unsigned char *dst,
                            ck_error *err) {
    const ck_plan *plan = w->run->plan;
    if (begin < plan->head_size) {
        uint64_t stop = end < plan->head_size ? end : plan->head_size;
        memcpy(dst, plan->head + begin, (size_t)(stop - begin));
    }
    for (size_t i = first_task_after(plan, begin); i < plan->task_count; i++) {
        const ck_task *task = &plan->tasks[i];
        if (task->offset >= end) break;
        uint64_t from = task->offset > begin ? task->offset : begin;
        uint64_t to = task->offset + task->out.nbytes;
        if (to > end) to = end;
        CK_TRY(fill(w, i, from - task->offset, (size_t)(to - from), dst + (from - begin), err));
    }
    return CK_OK;
}

static uint64_t chunk_end(const run *r, uint64_t index) {
    uint64_t end = (index + 1) * r->chunk_bytes;
    return end < r->plan->file_size ? end : r->plan->file_size;
}

static bool is_done(const run *r, uint64_t begin, uint64_t end) {
    return r->partial && ck_partial_has(r->partial, begin, end);
}

/* A chunk of an earlier run. */
static ck_status old_chunk(worker *w, uint64_t index, ck_error *err) {
    run *r = w->run;
    uint64_t begin = index * r->chunk_bytes;
    size_t n = (size_t)(chunk_end(r, index) - begin);
    if (r->output_hash) {
        CK_TRY(ck_writer_read(r->writer, begin, w->chunk, n, err));
        hash_chunk(r, index, w->chunk, n);
    }
    if (r->options->progress) ck_progress_add(r->options->progress, n);
    return CK_OK;
}

static ck_status make_chunk(worker *w, uint64_t index, ck_error *err) {
    run *r = w->run;
    uint64_t begin = index * r->chunk_bytes, end = chunk_end(r, index), from = begin;
    CK_TRY(check_cancel(r, err));
    if (is_done(r, begin, end)) return old_chunk(w, index, err);
    w->clipped = 0;
    if (begin < r->carried) {
        from = r->carried;
        memcpy(w->chunk, r->carry, (size_t)(from - begin));
        w->clipped = r->carry_clipped;
        w->clipped_task = first_task_after(r->plan, begin);
    }
    CK_TRY(fill_range(w, from, end, w->chunk + (from - begin), err));
    if (r->output_hash) hash_chunk(r, index, w->chunk, (size_t)(end - begin));
    CK_TRY(ck_writer_write(r->writer, begin, w->chunk, (size_t)(end - begin), err));
    if (r->partial)
        CK_TRY(ck_partial_add(r->partial,
                              &(ck_partial_piece){begin, end, w->clipped_task, w->clipped}, err));
    if (r->options->progress) ck_progress_add(r->options->progress, end - begin);
    return CK_OK;
}

/* Calls `job` with a worker's buffers until it says that nothing is left. */
static void with_buffers(run *r, bool (*job)(worker *w, ck_status *status)) {
    worker w = {.run = r};
    w.chunk = ck_alloc_pages(r->chunk_bytes);
    w.raw = ck_alloc_pages(r->leaf_bytes * r->block_elements);
    w.strips = ck_alloc_pages((size_t)r->registers * CK_STRIP * sizeof(float));
    bool holds = r->together > 1;
    if (holds) w.kept = ck_alloc_pages(r->held_bytes);
    if (!w.chunk || !w.raw || !w.strips || (holds && !w.kept)) {
        ck_fail_memory(&w.error, "merge buffers");
        fail(r, &w.error);
    }
    ck_status status = CK_OK;
    while (!r->failed && job(&w, &status))
        if (status != CK_OK) fail(r, &w.error);
    free(w.chunk);
    free(w.raw);
    free(w.strips);
    free(w.kept);
}

/* The next chunk that lies in the round as a whole. */
static bool next_chunk(worker *w, ck_status *status) {
    run *r = w->run;
    uint64_t index = r->next_chunk;
    do {
        if (index >= r->chunk_count || chunk_end(r, index) > r->round_end) return false;
    } while (!atomic_compare_exchange_weak(&r->next_chunk, &index, index + 1));
    *status = make_chunk(w, index, &w->error);
    return true;
}

/* The next chunk of all outputs that are made together. */
static bool next_chunk_of_all(worker *w, ck_status *status) {
    run *first = w->run;
    uint64_t index = atomic_fetch_add(&first->next_chunk, 1);
    bool any = false;
    w->kept_bytes = w->piece_count = 0;
    for (size_t i = 0; i < first->together && *status == CK_OK; i++) {
        w->run = &first[i];
        if (index >= w->run->chunk_count) continue;
        any = true;
        *status = make_chunk(w, index, &w->error);
    }
    w->run = first;
    return any;
}

/* What the round has of the next chunk. */
static bool carry_rest(worker *w, ck_status *status) {
    run *r = w->run;
    uint64_t begin = r->next_chunk * r->chunk_bytes;
    uint64_t from = begin < r->carried ? r->carried : begin;
    if (from >= r->round_end) return false;
    if (from == begin) r->carry_clipped = 0;
    w->clipped = 0;
    if (is_done(r, begin, chunk_end(r, r->next_chunk)))
        ; /* nobody will ask for it */
    else if (!r->carry && !(r->carry = ck_alloc(r->chunk_bytes)))
        *status = ck_fail_memory(&w->error, "merge buffers");
    else
        *status = fill_range(w, from, r->round_end, r->carry + (from - begin), &w->error);
    r->carried = r->round_end;
    r->carry_clipped += w->clipped;
    return true;
}

/* Whether all chunks with some of the task's bytes are those of an earlier run. */
static bool task_is_done(const run *r, const ck_task *task) {
    uint64_t first = task->offset / r->chunk_bytes;
    uint64_t last = (task->offset + task->out.nbytes) / r->chunk_bytes;
    if (last >= r->chunk_count) last = r->chunk_count - 1;
    return is_done(r, first * r->chunk_bytes, chunk_end(r, last));
}

static bool next_prepare(worker *w, ck_status *status) {
    size_t index = atomic_fetch_add(&w->run->next_task, 1);
    if (index >= w->run->round_tasks) return false;
    const ck_task *task = &w->run->plan->tasks[index];
    if (task_is_done(w->run, task)) return true;
    for (unsigned s = 0; s < task->step_count && *status == CK_OK; s++)
        *status = prepare_step(w, task, s, &w->error);
    return true;
}

static bool keep_hashing(void *context, uint64_t bytes) {
    const run *r = context;
    (void)bytes;
    return !r->failed && !(r->options->cancel && *r->options->cancel);
}

/* What the file of a model must hash to, from the recipe's models or its lock; NULL: anything. */
static const char *expected_hash(const ck_recipe *recipe, size_t model) {
    const char *hash = recipe->models[model].sha256;
    return hash || !recipe->lock_models ? hash : recipe->lock_models[model];
}

static bool wants_hash(const run *r, size_t model) {
    return r->hashes_models && (r->options->hash_models || expected_hash(r->plan->recipe, model));
}

static void hash_model(run *r, size_t model) {
    if (!wants_hash(r, model)) return;
    const char *path = ck_reader_path(r->plan->readers[model]);
    const char *expected = expected_hash(r->plan->recipe, model);
    char sha256[CK_SHA256_HEX];
    ck_error error;
    if (ck_model_hash(path, sha256, keep_hashing, r, &error) != CK_OK) {
        fail(r, &error);
    } else if (expected && strcmp(expected, sha256) != 0) {
        ck_fail(&error, CK_INPUT,
                "%s: not the file that the recipe was made with: its sha256 is %s, the recipe says "
                "%s",
                path, sha256, expected);
        fail(r, &error);
    } else {
        memcpy(r->result->model_sha256[model], sha256, CK_SHA256_HEX);
    }
}

static void hash_models(run *r) {
    for (;;) {
        size_t model = atomic_fetch_add(&r->next_model, 1);
        if (r->failed || model >= r->plan->recipe->model_count) return;
        hash_model(r, model);
    }
}

static bool has_lora(const ck_recipe *recipe) {
    for (size_t m = 0; m < recipe->model_count; m++)
        if (ck_recipe_lora_base(recipe, m) != SIZE_MAX) return true;
    return false;
}

/* How many bytes of the models go into one of an output, at most. */
static size_t read_ratio(const ck_plan *plan) {
    size_t most = 1;
    for (size_t i = 0; i < plan->task_count; i++) {
        const ck_task *task = &plan->tasks[i];
        size_t bytes = 0, out = element_bytes(task->out.dtype);
        for (unsigned l = 0; l < task->leaf_count && !task->raw; l++)
            bytes += element_bytes(task->leaves[l].tensor->dtype);
        if (out && (bytes + out - 1) / out > most) most = (bytes + out - 1) / out;
    }
    return most;
}

/* Chunk and block sizes such that all workers together stay within the budget; the same for all
 * outputs. */
static void choose_sizes(run *runs, size_t outputs, unsigned threads) {
    run *r = runs;
    size_t per_worker = MEMORY_BUDGET / threads, ratio = 0;
    for (size_t i = 0; i < outputs; i++) {
        const ck_plan *plan = runs[i].plan;
        r->leaf_bytes = plan->max_leaf_bytes > r->leaf_bytes ? plan->max_leaf_bytes : r->leaf_bytes;
        r->registers = plan->max_registers > r->registers ? plan->max_registers : r->registers;
        size_t own = outputs > 1 && !r->prepares ? read_ratio(plan) : 0;
        ratio = own > ratio ? own : ratio;
    }
    size_t strips = (size_t)r->registers * CK_STRIP * sizeof(float);
    r->makes_rows = has_lora(r->plan->recipe);
    r->block_elements = r->makes_rows ? LORA_BLOCK : MAX_BLOCK;
    while (r->block_elements > MIN_BLOCK &&
           r->leaf_bytes * r->block_elements + strips > per_worker / 2)
        r->block_elements /= 2;
    size_t rest = r->leaf_bytes * r->block_elements + strips;
    r->chunk_bytes = MAX_CHUNK;
    while (r->chunk_bytes > MIN_CHUNK && ((1 + ratio) * r->chunk_bytes + rest > per_worker ||
                                          (r->prepares && r->chunk_bytes * outputs > CARRY_BUDGET)))
        r->chunk_bytes /= 2;
    if (r->options->chunk_bytes)
        r->chunk_bytes = (r->options->chunk_bytes + CK_PAGE - 1) / CK_PAGE * CK_PAGE;
    r->held_bytes = ratio * r->chunk_bytes;
    for (size_t i = 1; i < outputs; i++) {
        runs[i].leaf_bytes = r->leaf_bytes;
        runs[i].registers = r->registers;
        runs[i].block_elements = r->block_elements;
        runs[i].makes_rows = r->makes_rows;
        runs[i].chunk_bytes = r->chunk_bytes;
        runs[i].held_bytes = r->held_bytes;
    }
}

static unsigned choose_threads(unsigned wanted) {
    unsigned threads = wanted ? wanted : (unsigned)omp_get_max_threads() + WRITES_UNDER_WAY;
    return threads > MAX_THREADS ? MAX_THREADS : threads;
}

/* Writes the round's chunks and, beside that, hashes the models that are to be hashed. */
static void run_threads(run *r, unsigned threads) {
    unsigned hashers = 0;
    for (size_t m = 0; m < r->plan->recipe->model_count; m++) hashers += wants_hash(r, m);
    unsigned team = threads + hashers;
#pragma omp parallel num_threads(team)
    {
        /* The runtime may give fewer threads than asked for, so hashing first and then working is
         * everybody's job. */
        if ((unsigned)omp_get_thread_num() < hashers) hash_models(r);
        with_buffers(r, r->prepares ? next_chunk : next_chunk_of_all);
        hash_models(r);
    }
}

/* Whether one of these tasks is to be prepared. */
static bool looks_at_all(const ck_plan *plan, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++)
        for (unsigned s = 0; s < plan->tasks[i].step_count; s++)
            if (plan->tasks[i].steps[s].found) return true;
    return false;
}

/* Bytes of the models that go into the tensor of this number, of some output the most. */
static uint64_t read_for(const run *runs, size_t index) {
    uint64_t most = 0;
    for (size_t i = 0; i < runs->outputs; i++) {
        const ck_task *task = &runs[i].plan->tasks[index];
        uint64_t bytes = 0;
        for (unsigned l = 0; l < task->leaf_count; l++) bytes += task->leaves[l].tensor->nbytes;
        if (bytes > most) most = bytes;
    }
    return most;
}

/* Whether the outputs' round that begins at `begin` has room for the tensor of this number;
 * *prepared and *stored are what they take so far. */
static bool has_room(const run *runs, size_t begin, size_t index, uint64_t *prepared,
                     uint64_t *stored) {
    uint64_t budget = runs->options->chunk_bytes ? runs->options->chunk_bytes : ROUND_BUDGET;
    uint64_t most = 0;
    for (size_t i = 0; i < runs->outputs; i++) {
        uint64_t bytes = needed(&runs[i].plan->tasks[index]);
        if (bytes > most) most = bytes;
    }
    *prepared += most;
    *stored += runs->outputs > 1 ? read_for(runs, index) : 0;
    const ck_task *tasks = runs->plan->tasks;
    return index == begin || (*prepared <= budget && *stored <= runs->store_bytes &&
                              tasks[index].offset - tasks[begin].offset <= runs->round_bytes);
}

/* The round that begins at this task: sets where it ends, for all outputs. */
static void choose_round(run *runs, size_t begin) {
    uint64_t prepared = 0, stored = 0;
    size_t end = begin;
    while (end < runs->plan->task_count && has_room(runs, begin, end, &prepared, &stored)) end++;
    for (size_t i = 0; i < runs->outputs; i++) {
        const ck_plan *plan = runs[i].plan;
        runs[i].round_tasks = end;
        runs[i].round_end = end == plan->task_count ? plan->file_size : plan->tasks[end].offset;
    }
}

static bool next_stored(worker *w, ck_status *status) {
    *status = check_cancel(w->run, &w->error);
    return *status != CK_OK || ck_store_load(&w->run->store, status, &w->error);
}

/* Reads what the outputs want of the models for these tasks. */
static void store_round(run *runs, size_t begin, unsigned threads) {
    ck_store *store = &runs->store;
    bool ok = true;
    for (size_t i = 0; i < runs->outputs; i++)
        for (size_t t = begin; t < runs->round_tasks; t++) {
            const ck_task *task = &runs[i].plan->tasks[t];
            if (task_is_done(&runs[i], task)) continue;
            for (unsigned l = 0; l < task->leaf_count && ok; l++)
                ok = ck_store_add(store, runs[i].plan->readers[task->leaves[l].model],
                                  task->leaves[l].tensor);
        }
    ck_error error;
    if (!ok || !ck_store_begin(store)) {
        ck_fail_memory(&error, "the models' tensors");
        fail(runs, &error);
        return;
    }
#pragma omp parallel num_threads(threads)
    with_buffers(runs, next_stored);
}

/* One output's part of the round from this task on. */
static void run_round(run *r, size_t begin, unsigned threads) {
    const ck_plan *plan = r->plan;
    r->next_task = begin;
    if (looks_at_all(plan, begin, r->round_tasks)) {
#pragma omp parallel num_threads(threads)
        with_buffers(r, next_prepare);
    }
    if (!r->failed) run_threads(r, threads);
    bool last = r->round_tasks == plan->task_count;
    if (!r->failed && !last) with_buffers(r, carry_rest);
    for (; begin < r->round_tasks; begin++) forget(&plan->tasks[begin]);
}

static void sum_clipped(run *r) {
    for (size_t i = 0; i < r->plan->task_count; i++) {
        uint64_t clipped = r->clipped[i];
        if (clipped && !r->result->clipped) r->result->clipped_tensor = r->plan->tasks[i].out.name;
        r->result->clipped += clipped;
    }
}

/* ---- From opening to naming ---- */

/* What an interrupted run and the one that goes on with it must have in common. */
static ck_status fingerprint(const ck_plan *plan, char hex[CK_SHA256_HEX], ck_error *err) {
    ck_sha256 *hash = ck_sha256_new();
    if (!hash) return ck_fail_memory(err, "merge");
    char *recipe = NULL;
    ck_status status = ck_recipe_text(plan->recipe, CK_PATH_NAME, NULL, &recipe, err);
    ck_sha256_update(hash, CK_VERSION, sizeof CK_VERSION);
    if (recipe) ck_sha256_update(hash, recipe, strlen(recipe));
    free(recipe);
    ck_sha256_update(hash, plan->head, plan->head_size); /* with the layout */
    for (size_t m = 0; m < plan->recipe->model_count && status == CK_OK; m++)
        status = ck_model_stamp(ck_reader_path(plan->readers[m]), hash, err);
    ck_sha256_hex(hash, hex);
    ck_sha256_free(hash);
    return status;
}

static void take_piece(void *context, const ck_partial_piece *piece) {
    run *r = context;
    r->result->resumed += piece->end - piece->begin;
    if (piece->item < r->plan->task_count) r->clipped[piece->item] += piece->count;
}

/* Opens the output. The chunks of one that is gone on with stay as they were, and if they are large
 * for so many threads, there are fewer. */
static ck_status open_output(run *r, const char *path, unsigned *threads, ck_error *err) {
    uint64_t size = r->plan->file_size, unit = r->chunk_bytes;
    if (!r->options->resume)
        return ck_writer_create(path, size, r->options->replace, &r->writer, err);
    char hex[CK_SHA256_HEX];
    CK_TRY(fingerprint(r->plan, hex, err));
    CK_TRY(ck_partial_open(path, size, r->options->replace, hex, &unit, take_piece, r, &r->partial,
                           err));
    r->writer = ck_partial_writer(r->partial);
    if (unit > MAX_CHUNK || unit % CK_PAGE)
        return ck_fail(err, CK_INPUT, "%s: its journal is damaged; remove it",
                       ck_partial_path(r->partial));
    r->chunk_bytes = (size_t)unit;
    unsigned room = (unsigned)(MEMORY_BUDGET / r->chunk_bytes);
    if (*threads > room) *threads = room;
    return CK_OK;
}

/* What a run needs before sizes are chosen. */
static ck_status start(run *r, const char *path, ck_error *err) {
    size_t models = r->plan->recipe->model_count;
    r->kernels = ck_kernels_best();
    if (!r->kernels)
        return ck_fail(
            err, CK_USAGE,
            "CK_ISA='%s': no such instruction set, or this processor lacks it; unset it, "
            "or use portable",
            getenv("CK_ISA"));
    r->clipped = ck_alloc_array(r->plan->task_count, sizeof *r->clipped);
    r->result->model_sha256 = ck_alloc_array(models, CK_SHA256_HEX);
    if (!r->clipped || !r->result->model_sha256) return ck_fail_memory(err, path);
    if (r->options->hash_output && !(r->output_hash = ck_sha256_new()))
        return ck_fail_memory(err, path);
    r->round_bytes = READ_ROUND / models;
    if (r->options->resume && r->round_bytes > RESUME_ROUND) r->round_bytes = RESUME_ROUND;
    return CK_OK;
}

static ck_status start_all(run *runs, const char *const *paths, size_t count, unsigned *threads,
                           ck_error *err) {
    bool prepares = false, alike = true;
    uint64_t most = 1;
    for (size_t i = 0; i < count; i++) {
        CK_TRY(start(&runs[i], paths[i], err));
        prepares |= looks_at_all(runs[i].plan, 0, runs[i].plan->task_count);
    }
    for (size_t i = 0; i < count; i++) {
        runs[i].prepares = prepares;
        if (runs[i].plan->task_count != runs->plan->task_count)
            return ck_fail(err, CK_USAGE, "%s has other tensors than %s", paths[i], *paths);
    }
    runs->store_bytes = runs->options->chunk_bytes ? runs->options->chunk_bytes : STORE_BUDGET;
    for (size_t t = 0; t < runs->plan->task_count; t++) {
        uint64_t bytes = read_for(runs, t);
        if (bytes > runs->store_bytes) runs->store_bytes = bytes;
    }
    *threads = choose_threads(runs->options->threads);
    choose_sizes(runs, count, *threads);
    for (size_t i = 0; i < count; i++) {
        run *r = &runs[i];
        r->chunk_bytes = runs->chunk_bytes; /* perhaps an earlier run's */
        CK_TRY(open_output(r, paths[i], threads, err));
        r->chunk_count = (r->plan->file_size + r->chunk_bytes - 1) / r->chunk_bytes;
        alike &= r->chunk_bytes == runs->chunk_bytes;
        if (r->chunk_count > most) most = r->chunk_count;
    }
    if (most < *threads) *threads = (unsigned)most;
    for (size_t i = 0; i < count; i++) {
        runs[i].together = alike ? count : 1;
        runs[i].result->threads = *threads;
    }
    return CK_OK;
}

/* What a method learned of all tensors. */
static void conclude(run *r) {
    for (ck_node_survey *s = r->plan->surveys; s; s = s->next) {
        ck_survey *all = &s->survey;
        if (!r->failed) s->node->method->conclude(all->numbers, all->count, all->found);
        free(all->numbers);
        all->numbers = NULL;
        all->count = all->capacity = 0;
    }
}

static void survey_round(run *r, size_t begin, unsigned threads) {
    r->next_task = begin;
    if (!r->plan->surveys) return;
#pragma omp parallel num_threads(threads)
    with_buffers(r, next_survey);
}

/* All rounds, of all outputs in turn. */
static void run_rounds(run *runs, unsigned threads,
                       void (*round)(run *r, size_t begin, unsigned threads)) {
    for (size_t begin = 0; begin < runs->plan->task_count && !runs->failed;
         begin = runs->round_tasks) {
        choose_round(runs, begin);
        if (runs->outputs > 1) store_round(runs, begin, threads);
        for (size_t i = 0; i < runs->outputs && !runs->failed; i++) round(&runs[i], begin, threads);
        ck_store_empty(&runs->store);
    }
}

/* Goes over all tensors once, where some method must know them all. (In what order their numbers
 * come does not matter.) */
static void survey(run *runs, unsigned threads) {
    bool any = false;
    for (size_t i = 0; i < runs->outputs; i++) any |= runs[i].plan->surveys != NULL;
    if (any) run_rounds(runs, threads, survey_round);
    for (size_t i = 0; i < runs->outputs; i++) conclude(&runs[i]);
}

static ck_status finish(run *r, const char *path, ck_error *err) {
    sum_clipped(r);
    if (r->output_hash) {
        ck_sha256_hex(r->output_hash, r->result->output_sha256);
        const char *locked = r->plan->recipe->lock_output;
        if (locked && strcmp(locked, r->result->output_sha256) != 0)
            return ck_fail(err, CK_INPUT,
                           "%s: the result differs from what the recipe's lock says: sha256 %s, "
                           "locked %s (locked by %s, this is ckmerge " CK_VERSION ")",
                           path, r->result->output_sha256, locked,
                           r->plan->recipe->lock_tool ? r->plan->recipe->lock_tool : "?");
    }
    ck_writer *writer = r->writer;
    ck_partial *partial = r->partial;
    r->writer = NULL;
    r->partial = NULL;
    return partial ? ck_partial_commit(partial, err) : ck_writer_commit(writer, err);
}

static ck_status run_all(run *runs, const char *const *paths, size_t count, ck_error *err) {
    unsigned threads = 1;
    CK_TRY(start_all(runs, paths, count, &threads, err));
    survey(runs, threads);
    if (runs->prepares)
        run_rounds(runs, threads, run_round);
    else
        for (size_t i = 0; i < count; i += runs->together) run_threads(&runs[i], threads);
    if (runs->failed) {
        *err = runs->error;
        return err->status;
    }
    CK_TRY(check_cancel(runs, err));
    for (size_t i = 0; i < count; i++) CK_TRY(finish(&runs[i], paths[i], err));
    return CK_OK;
}

/* Says where the work is that was interrupted, and leaves it there. */
static void keep_partial(run *r, ck_error *err) {
    if (!r->partial) return;
    ck_error told = *err;
    if (r == r->all)
        ck_fail(err, told.status,
                "%s; what is done is kept in %s%s, and the same command goes on with it",
                told.message, ck_partial_path(r->partial),
                r->outputs > 1 ? " and in those of the other outputs" : "");
    ck_partial_keep(r->partial);
    r->writer = NULL;
}

static void release(run *r, ck_status status) {
    ck_writer_abort(r->writer);
    ck_sha256_free(r->output_hash);
    free(r->clipped);
    free(r->carry);
    pthread_cond_destroy(&r->turn_changed);
    pthread_mutex_destroy(&r->lock);
    if (status != CK_OK) {
        free(r->result->model_sha256);
        r->result->model_sha256 = NULL;
    }
}

ck_status ck_run_several(const ck_plan *const *plans, const char *const *paths, size_t count,
                         const ck_run_options *options, ck_run_result *results, ck_error *err) {
    memset(results, 0, count * sizeof *results);
    run *runs = ck_alloc_array(count, sizeof *runs);
    if (!runs) return ck_fail_memory(err, paths[0]);
    for (size_t i = 0; i < count; i++) {
        runs[i].plan = plans[i];
        runs[i].options = options;
        runs[i].result = &results[i];
        runs[i].hashes_models = i == 0;
        runs[i].all = runs;
        runs[i].outputs = count;
        pthread_mutex_init(&runs[i].lock, NULL);
        pthread_cond_init(&runs[i].turn_changed, NULL);
    }
    ck_status status = run_all(runs, paths, count, err);
    for (size_t i = 0; i < count; i++) {
        if (status != CK_OK) keep_partial(&runs[i], err);
        release(&runs[i], status);
    }
    free(runs);
    return status;
}

ck_status ck_run(const ck_plan *plan, const char *path, const ck_run_options *options,
                 ck_run_result *result, ck_error *err) {
    return ck_run_several(&plan, &path, 1, options, result, err);
}
