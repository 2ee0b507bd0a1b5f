/* libFuzzer: any bytes as SentencePiece's spiece.model: refused, or texts become numbers that it
 * has. Seeds are without a table of characters, or with a small one: a real one is too large to
 * find anything by changing it. */
#include "distill/models/unigram.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const texts[] = {"", "a cat", "  ab\tb\xc3\xa4 a\xcc\x88 \xef\xac\x81 ",
                                        "aaaaabbb"};
    enum { LENGTH = 8 };
    ck_unigram *u;
    ck_error err;
    if (ck_unigram_parse("fuzz", data, n, &u, &err) != CK_OK) return 0;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int32_t ids[LENGTH];
        size_t lost;
        if (ck_unigram_encode(u, texts[i], LENGTH, ids, &lost, &err) != CK_OK) continue;
        for (int k = 0; k < LENGTH; k++)
            if (ids[k] < 0 || ids[k] > ck_unigram_largest(u)) abort();
    }
    ck_unigram_close(u);
    return 0;
}
