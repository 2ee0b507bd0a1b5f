/* Weights to files, see export.h. */
#include "distill/models/export.h"

#include "io/view.h"
#include "merge/save.h"

static ck_status add_all(ck_reader *view, const ck_reader *weights, const ck_meta *facts,
                         size_t count, ck_error *err) {
    for (size_t i = 0; i < ck_reader_count(weights); i++) {
        const ck_tensor *t = ck_reader_tensor(weights, i);
        CK_TRY(ck_view_rename(view, t->name, weights, t, err));
    }
    CK_TRY(ck_view_copy_metadata(view, weights, err));
    for (size_t i = 0; i < count; i++)
        CK_TRY(ck_view_set_metadata(view, facts[i].key, facts[i].value, err));
    return ck_view_finish(view, err);
}

ck_status ck_export_reader(const ck_reader *weights, const char *path, ck_dtype dtype,
                           const ck_meta *facts, size_t count, ck_error *err) {
    ck_reader *view;
    CK_TRY(ck_view_new(ck_reader_path(weights), &view, err));
    ck_status s = add_all(view, weights, facts, count, err);
    ck_save_options options = {.dtype = dtype, .replace = true, .quiet = true};
    ck_save_result result;
    if (s == CK_OK) s = ck_save(view, path, &options, &result, err);
    ck_reader_close(view);
    return s;
}

ck_status ck_export(const ck_params *weights, const char *path, ck_dtype dtype,
                    const ck_meta *facts, size_t count, ck_error *err) {
    ck_reader *r;
    CK_TRY(ck_params_reader(weights, &r, err));
    ck_status s = ck_export_reader(r, path, dtype, facts, count, err);
    ck_reader_close(r);
    return s;
}
