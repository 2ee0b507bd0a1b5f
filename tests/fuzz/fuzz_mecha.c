/* libFuzzer: any text as a .mecha of sd-mecha must be read or refused; what is read is a recipe
 * that can be written and read back. */
#include "merge/foreign.h"
#include "tests/fuzz/read_back.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const ck_foreign where = {0};
    ck_recipe r;
    ck_error err;
    if (ck_foreign_mecha("r", (const char *)data, n, &where, &r, &err) != CK_OK) return 0;
    read_back(&r);
    return 0;
}
