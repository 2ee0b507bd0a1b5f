/* libFuzzer: any list of names and shapes is recognised as something and either converted or
 * refused; every tensor of the result can be read. A line of the input is a digit for the dtype,
 * up to five digits of shape, a space, and the name. */
#include "io/layout.h"
#include "io/view.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { MAX_RANK = 5, MAX_BYTES = 9 * 9 * 9 * 9 * 9 * 8 };
static char zeros[MAX_BYTES], buffer[MAX_BYTES];

static ck_status add_line(ck_reader *view, const char *line, ck_error *err) {
    static const ck_dtype dtypes[] = {CK_F16, CK_F32, CK_BF16, CK_F8_E4M3, CK_U8, CK_I64};
    uint64_t shape[MAX_RANK];
    size_t rank = 0;
    ck_dtype dtype = dtypes[(unsigned char)*line % 6];
    for (line += *line != 0; *line >= '0' && *line <= '9' && rank < MAX_RANK; line++)
        shape[rank++] = (uint64_t)(*line - '0');
    return ck_view_constant(view, line + (*line == ' '), dtype, rank, shape, zeros, err);
}

static void check(const ck_reader *source, ck_layout target, ck_unused unused) {
    ck_reader *view;
    ck_error err;
    if (ck_layout_convert(source, target, unused, &view, NULL, &err) != CK_OK) return;
    for (size_t i = 0; i < ck_reader_count(view); i++) {
        const ck_tensor *t = ck_reader_tensor(view, i);
        if (t->nbytes > MAX_BYTES || ck_reader_read(view, t, 0, buffer, t->nbytes, &err) != CK_OK)
            abort();
    }
    ck_reader_close(view);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    ck_reader *view;
    ck_error err;
    char *text = calloc(n + 1, 1);
    if (!text || ck_view_new("input", &view, &err) != CK_OK) abort();
    memcpy(text, data, n);
    ck_status status = CK_OK;
    for (char *line = strtok(text, "\n"); line && status == CK_OK; line = strtok(NULL, "\n"))
        status = add_line(view, line, &err);
    if (status == CK_OK) status = ck_view_finish(view, &err);
    ck_anatomy a;
    if (status == CK_OK && ck_anatomy_of(view, &a, &err) == CK_OK) {
        size_t tensors = 0;
        for (size_t i = 0; i < a.component_count; i++) tensors += a.components[i].tensors;
        if (tensors != ck_reader_count(view)) abort();
        ck_anatomy_free(&a);
        check(view, CK_LAYOUT_DIFFUSERS, CK_UNUSED_DROP);
        check(view, CK_LAYOUT_ORIGINAL, CK_UNUSED_DROP);
        check(view, CK_LAYOUT_DIFFUSERS, CK_UNUSED_KEEP);
    }
    ck_reader_close(view);
    free(text);
    return 0;
}
