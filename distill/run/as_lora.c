/* See as_lora.h. */
#include "distill/run/as_lora.h"

#include "distill/models/adapter.h"
#include "distill/models/export.h"
#include "io/view.h"
#include "merge/lora_difference.h"

static ck_status write_lora(ck_reader *lora, size_t rank, const char *path, ck_dtype dtype,
                            const ck_meta *facts, size_t count, ck_error *err) {
    CK_TRY(ck_adapter_describe(lora, rank, (double)rank, err));
    CK_TRY(ck_view_finish(lora, err));
    return ck_export_reader(lora, path, dtype, facts, count, err);
}

static ck_status extract(const ck_reader *student, const ck_reader *teacher, size_t rank,
                         const char *path, ck_dtype dtype, const ck_meta *facts, size_t count,
                         ck_lora_made *made, ck_error *err) {
    ck_lora_difference d;
    ck_reader *lora = NULL;
    ck_lora_make_options options = {.cut = {.rank = rank, .conv_rank = rank}, .dtype = CK_F32};
    ck_status s = ck_lora_difference_of(student, teacher, &d, err);
    if (s == CK_OK)
        s = ck_lora_make(path, d.layers, d.count, ck_lora_difference_read, &d, &options, &lora,
                         made, err);
    if (s == CK_OK) s = write_lora(lora, rank, path, dtype, facts, count, err);
    ck_reader_close(lora);
    ck_lora_difference_free(&d);
    return s;
}

ck_status ck_as_lora(const ck_params *student, const ck_params *teacher, size_t rank,
                     const char *path, ck_dtype dtype, const ck_meta *facts, size_t count,
                     ck_lora_made *made, ck_error *err) {
    ck_reader *tuned = NULL, *base = NULL;
    ck_status s = ck_params_reader(student, &tuned, err);
    if (s == CK_OK) s = ck_params_reader(teacher, &base, err);
    if (s == CK_OK) s = extract(tuned, base, rank, path, dtype, facts, count, made, err);
    ck_reader_close(tuned);
    ck_reader_close(base);
    return s;
}
