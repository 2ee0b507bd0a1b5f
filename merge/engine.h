/* Carries out a plan: reads, mixes and writes block by block, in constant memory.
 *
 *   ck_run_options o = {.threads = 0, .replace = force};
 *   ck_run_result result;
 *   CK_TRY(ck_run(plan, "out.safetensors", &o, &result, err));
 *
 * The output file is cut into chunks; each worker thread takes the next chunk, fills it from
 * whatever tensors lie in it and writes it at its place. So the bytes depend on nothing but the
 * plan: not on threads, sizes of chunks and blocks, or the instruction set.
 */
#ifndef CK_ENGINE_H
#define CK_ENGINE_H

#include "io/hash.h"
#include "io/progress.h"
#include "merge/plan.h"

typedef struct ck_run_options {
    unsigned threads;   /* 0: as many as there are processors, and a few that wait for the disk */
    bool replace;       /* an existing output */
    bool resume;        /* keep what is done when the work is interrupted, and go on with what an
                         * earlier run kept (io/partial.h) */
    bool hash_models;   /* compute the models' SHA-256 while they are being read */
    bool hash_output;   /* and the output's */
    size_t chunk_bytes; /* 0: chosen; else for tests, rounded up to CK_PAGE, and as much of tensors
                         * prepared at once */
    ck_progress *progress;      /* is told of every byte written; NULL: nobody */
    const volatile int *cancel; /* not 0: stop with CK_CANCELLED; NULL: never */
} ck_run_options;

typedef struct ck_run_result {
    uint64_t clipped;           /* finite values that overflowed the output's dtype */
    const char *clipped_tensor; /* the first tensor (in file order) with one; owned by the plan */
    unsigned threads;           /* that were used */
    uint64_t resumed;           /* bytes of the output that an earlier run had done */
    char output_sha256[CK_SHA256_HEX];   /* "" unless asked for */
    char (*model_sha256)[CK_SHA256_HEX]; /* one for each model, or NULL; release with free() */
} ck_run_result;

/* Writes the planned file to path, whole or not at all. A model whose recipe says what its SHA-256
 * must be is hashed and checked before the file gets its name (CK_INPUT when it differs). */
ck_status ck_run(const ck_plan *plan, const char *path, const ck_run_options *options,
                 ck_run_result *result, ck_error *err);

/* Several plans over the same models at once: for every part of the models that is read, all
 * outputs get their part, so that what they read through the same readers is read once. All have
 * the same tensors. Each file is the one that ck_run would write, and memory is that of one merge;
 * where tensors are prepared, and the largest tensor of every model. They get their names when all
 * are whole; the paths are in the order of the plans. Only the first result has the models' hashes.
 */
ck_status ck_run_several(const ck_plan *const *plans, const char *const *paths, size_t count,
                         const ck_run_options *options, ck_run_result *results, ck_error *err);

#endif
