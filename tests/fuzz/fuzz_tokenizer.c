/* libFuzzer: any prompt is encoded or refused, with start, end and the right length. */
#include "distill/models/tokenizer.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static ck_tokenizer *t;
    ck_error err = {0};
    if (!t && ck_tokenizer_open("tests/data/tokenizer", "", &t, &err) != CK_OK) abort();
    char *prompt = malloc(n + 1);
    if (!prompt) return 0;
    if (n) memcpy(prompt, data, n);
    prompt[n] = 0;
    int32_t ids[77];
    size_t lost;
    if (ck_tokenizer_encode(t, prompt, ids, &lost, &err) == CK_OK) {
        bool ended = false;
        for (int i = 0; i < 77; i++) ended |= ids[i] == ck_tokenizer_end(t);
        if (ids[0] != 692 || !ended) abort();
    }
    free(prompt);
    return 0;
}
