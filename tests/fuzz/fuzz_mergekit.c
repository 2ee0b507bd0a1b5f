/* libFuzzer: any text as a configuration of mergekit must be read or refused; what is read is a
 * recipe that can be written and read back. */
#include "merge/foreign.h"
#include "tests/fuzz/read_back.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const tensors[] = {"blocks.0.attn.w", "blocks.0.mlp.w", "blocks.1.attn.w",
                                          "blocks.1.mlp.w",  "vae.layers.0.w", "x*y[0]\\.w"};
    const ck_foreign where = {.tensors = tensors, .tensor_count = sizeof tensors / sizeof *tensors};
    ck_recipe r;
    ck_error err;
    if (ck_foreign_mergekit("r", (const char *)data, n, &where, &r, &err) != CK_OK) return 0;
    read_back(&r);
    return 0;
}
