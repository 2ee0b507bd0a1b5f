/* libFuzzer: any bytes as an IDX file, plain or compressed, are read or refused; what is read has
 * all of its elements. */
#include "distill/data/idx.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    ck_idx idx;
    ck_error err = {0};
    if (ck_idx_parse("fuzz", data, n, &idx, &err) != CK_OK) return 0;
    size_t count = 1;
    for (size_t i = 0; i < idx.rank; i++) count *= idx.shape[i];
    if (count != idx.count) abort();
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < count; i++) sum = (uint8_t)(sum + idx.data[i]);
    ck_idx_free(&idx);
    return 0;
}
