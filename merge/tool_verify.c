/* cktool verify: is a file what it should be, and are its values numbers? */
#include "io/os.h"
#include "io/progress.h"
#include "io/utf8.h"
#include "kernels/kernels.h"
#include "merge/tool.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

static bool json, quiet;

static const ck_option options[] = {
    {.name = "json", .type = CK_OPT_FLAG, .value = &json, .help = "as one JSON document"},
    {.name = "quiet", .letter = 'q', .type = CK_OPT_FLAG, .value = &quiet, .help = "no progress"},
    {0},
};

static const ck_command command = {
    .name = "cktool verify",
    .summary = "check a file strictly, and count NaN and infinite values",
    .synopsis = "[--json] FILE...",
    .details =
        "Reads everything. The exit status is 1 when the file is malformed or cut off, or when "
        "a value is NaN or infinite: such a model makes black or grey pictures.",
    .options = options,
    .examples = "$ cktool verify merged.safetensors && echo fine",
    .files = true,
};

enum { BLOCK_BYTES = 1 << 20 };

typedef struct counts {
    uint64_t nan, infinite;
} counts;

static void count_strip(const ck_kernels *k, ck_dtype d, const unsigned char *raw, size_t n,
                        counts *c) {
    float values[CK_STRIP];
    k->decode[d](values, raw, n);
    for (size_t i = 0; i < n; i++) {
        c->nan += isnan(values[i]) != 0;
        c->infinite += isinf(values[i]) != 0;
    }
}

/* Reads all of a tensor; other types than floats are only read. */
static ck_status check_tensor(const ck_reader *r, const ck_tensor *t, unsigned char *block,
                              ck_progress *p, counts *c, ck_error *err) {
    const ck_kernels *k = ck_kernels_best();
    if (!k) return ck_fail(err, CK_USAGE, "CK_ISA names no instruction set of this processor");
    size_t size = ck_dtype_bits(t->dtype) / 8;
    for (uint64_t at = 0; at < t->nbytes;) {
        size_t n = t->nbytes - at < BLOCK_BYTES ? (size_t)(t->nbytes - at) : BLOCK_BYTES;
        CK_TRY(ck_reader_read(r, t, at, block, n, err));
        for (size_t i = 0; ck_dtype_is_float(t->dtype) && i < n / size; i += CK_STRIP)
            count_strip(k, t->dtype, block + i * size,
                        n / size - i < CK_STRIP ? n / size - i : CK_STRIP, c);
        at += n;
        ck_progress_add(p, n);
    }
    return CK_OK;
}

/* Reports a tensor with bad values; list is NULL for text. */
static bool report(cJSON *list, const ck_tensor *t, counts c) {
    if (!list) {
        char name[1024];
        printf("%s: %" PRIu64 " NaN, %" PRIu64 " infinite of %" PRIu64 "\n",
               ck_printable(name, sizeof name, t->name), c.nan, c.infinite, t->elements);
        return true;
    }
    cJSON *object = ck_tool_add_object(list);
    return cJSON_AddStringToObject(object, "name", t->name) &&
           cJSON_AddNumberToObject(object, "nan", (double)c.nan) &&
           cJSON_AddNumberToObject(object, "inf", (double)c.infinite);
}

static ck_status check_reader(const ck_reader *r, cJSON *bad, counts *total, ck_error *err) {
    unsigned char *block = ck_alloc(BLOCK_BYTES);
    if (!block) return ck_fail_memory(err, ck_reader_path(r));
    uint64_t bytes = 0;
    for (size_t i = 0; i < ck_reader_count(r); i++) bytes += ck_reader_tensor(r, i)->nbytes;
    ck_progress p;
    ck_progress_start(&p, "verifying", bytes, quiet);
    ck_status status = CK_OK;
    for (size_t i = 0; i < ck_reader_count(r) && status == CK_OK; i++) {
        const ck_tensor *t = ck_reader_tensor(r, i);
        counts c = {0};
        status = check_tensor(r, t, block, &p, &c, err);
        total->nan += c.nan;
        total->infinite += c.infinite;
        if (status == CK_OK && (c.nan || c.infinite) && !report(bad, t, c))
            status = ck_fail_memory(err, "report");
    }
    ck_progress_end(&p);
    free(block);
    return status;
}

static bool fill_json(cJSON *object, const ck_reader *r, counts total) {
    return cJSON_AddNumberToObject(object, "tensors", (double)ck_reader_count(r)) &&
           cJSON_AddNumberToObject(object, "nan", (double)total.nan) &&
           cJSON_AddNumberToObject(object, "inf", (double)total.infinite);
}

static ck_status run_file(const char *path, cJSON *object, bool *finding, ck_error *err) {
    ck_reader *r;
    CK_TRY(ck_reader_open(path, &r, err));
    cJSON *bad = object ? cJSON_AddArrayToObject(object, "bad") : NULL;
    counts total = {0};
    ck_status status =
        object && !bad ? ck_fail_memory(err, path) : check_reader(r, bad, &total, err);
    *finding |= total.nan || total.infinite;
    if (status == CK_OK && !object)
        printf("%s: %s, %zu tensors, %" PRIu64 " NaN, %" PRIu64 " infinite\n", path,
               total.nan || total.infinite ? "well-formed, but with values that are no numbers"
                                           : "good",
               ck_reader_count(r), total.nan, total.infinite);
    else if (status == CK_OK && !fill_json(object, r, total))
        status = ck_fail_memory(err, path);
    ck_reader_close(r);
    return status;
}

const ck_tool ck_tool_verify = {
    .command = &command, .min_operands = 1, .run_file = run_file, .json = &json};
