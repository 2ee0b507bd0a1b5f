/* libFuzzer: any list of names and shapes is a LoRA for any model, or refused; all changes can be
 * read. A line of the input is '+' for a tensor of the model or '-' for one of the LoRA, a digit
 * for the dtype, up to five digits of shape, a space, and the name. */
#include "io/view.h"
#include "merge/lora.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { MAX_RANK = 5, MAX_ELEMENTS = 9 * 9 * 9 * 9 * 9 };
static char zeros[MAX_ELEMENTS * 8];
static float values[MAX_ELEMENTS];

static ck_status add_line(ck_reader *const *views, const char *line, ck_error *err) {
    static const ck_dtype dtypes[] = {CK_F16, CK_F32, CK_BF16, CK_F8_E4M3, CK_U8, CK_I64};
    uint64_t shape[MAX_RANK];
    size_t rank = 0;
    ck_reader *view = views[*line == '+'];
    line += *line != 0;
    ck_dtype dtype = dtypes[(unsigned char)*line % 6];
    for (line += *line != 0; *line >= '0' && *line <= '9' && rank < MAX_RANK; line++)
        shape[rank++] = (uint64_t)(*line - '0');
    return ck_view_constant(view, line + (*line == ' '), dtype, rank, shape, zeros, err);
}

static void check(const ck_reader *lora, const ck_reader *model, ck_unmatched unmatched) {
    ck_reader *changes;
    ck_error err;
    if (ck_lora_changes(lora, model, unmatched, &changes, NULL, &err) != CK_OK) return;
    for (size_t i = 0; i < ck_reader_count(changes); i++) {
        const ck_tensor *t = ck_reader_tensor(changes, i), *like = ck_reader_find(model, t->name);
        if (!like || like->elements != t->elements ||
            ck_reader_read(changes, t, 0, values, t->nbytes, &err) != CK_OK)
            abort();
    }
    ck_reader_close(changes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    ck_reader *views[2];
    ck_error err;
    char *text = calloc(n + 1, 1);
    if (!text || ck_view_new("lora", &views[0], &err) != CK_OK ||
        ck_view_new("model", &views[1], &err) != CK_OK)
        abort();
    memcpy(text, data, n);
    ck_status status = CK_OK;
    for (char *line = strtok(text, "\n"); line && status == CK_OK; line = strtok(NULL, "\n"))
        status = add_line(views, line, &err);
    for (int i = 0; i < 2 && status == CK_OK; i++) status = ck_view_finish(views[i], &err);
    if (status == CK_OK) {
        check(views[0], views[1], CK_UNMATCHED_SKIP);
        check(views[0], views[1], CK_UNMATCHED_ERROR);
    }
    ck_reader_close(views[0]);
    ck_reader_close(views[1]);
    free(text);
    return 0;
}
