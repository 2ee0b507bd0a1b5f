/* Writes a model for benchmarks: the names and shapes of a published one, values made up.
 *
 *   make_layout CASE DTYPE SEED FILE        make_layout 'sd1 file' f16 1 a.safetensors
 *
 * CASE is a name from tests/layouts.c, DTYPE f16, bf16 or f32. Values are of about the size that
 * weights have; one seed always gives the same file.
 */
#include "io/safetensors.h"
#include "kernels/kernels.h"
#include "tests/fixture.h"
#include "tests/layouts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 1 << 20 };

static ck_dtype dtype_of(const char *word) {
    return strcmp(word, "f32") == 0 ? CK_F32 : strcmp(word, "bf16") == 0 ? CK_BF16 : CK_F16;
}

/* Integers are position_ids: 0, 1, 2, ..., the same in every model. */
static void write_numbers(FILE *out, uint64_t bytes) {
    for (int64_t i = 0; (uint64_t)i < bytes / sizeof i; i++) fwrite(&i, sizeof i, 1, out);
}

/* Random weights; a block is made once and written again and again from changing places. */
static void write_data(FILE *out, ck_dtype d, uint64_t bytes, const unsigned char *block,
                       uint64_t *seed) {
    size_t size = ck_dtype_bits(d) / 8;
    while (bytes > 0) {
        size_t start = fixture_random(seed) % (BLOCK / 2) * size, n = BLOCK * size - start;
        if (n > bytes) n = (size_t)bytes;
        fwrite(block + start, 1, n, out);
        bytes -= n;
    }
}

int main(int argc, char **argv) {
    const layout_case *c = argc == 5 ? layout_case_named(argv[1]) : NULL;
    if (!c) {
        fprintf(stderr, "usage: make_layout CASE f16|bf16|f32 SEED FILE; cases:");
        for (size_t i = 0; i < layout_case_count; i++) fprintf(stderr, " %s", layout_cases[i].name);
        fputc('\n', stderr);
        return 2;
    }
    ck_dtype d = dtype_of(argv[2]);
    uint64_t seed = strtoull(argv[3], NULL, 10) * 2 + 1;
    layout l;
    layout_make(&l, c, false);
    ck_tensor *tensors = calloc(l.count, sizeof *tensors);
    const ck_tensor **order = calloc(l.count, sizeof *order);
    uint64_t *offsets = calloc(l.count, sizeof *offsets), file_size;
    for (size_t i = 0; i < l.count; i++) {
        const layout_tensor *t = &l.tensors[i];
        ck_dtype own = ck_dtype_is_float(t->dtype) ? d : t->dtype;
        tensors[i] = (ck_tensor){
            .name = t->name, .dtype = own, .rank = t->rank, .shape = t->shape, .elements = 1};
        for (size_t k = 0; k < t->rank; k++) tensors[i].elements *= t->shape[k];
        tensors[i].nbytes = tensors[i].elements * ck_dtype_bits(own) / 8;
        order[i] = &tensors[i];
    }
    ck_safetensors_sort(order, l.count);
    char *head;
    size_t head_size;
    ck_error err;
    const ck_meta meta = {"format", "pt"};
    if (ck_safetensors_header(order, l.count, &meta, 1, &head, &head_size, offsets, &file_size,
                              &err) != CK_OK) {
        fprintf(stderr, "make_layout: %s\n", err.message);
        return 1;
    }
    float *values = malloc(BLOCK * sizeof *values);
    unsigned char *block = malloc(BLOCK * sizeof *values);
    for (size_t i = 0; i < BLOCK; i++) values[i] = fixture_random_float(&seed) * 0.1f;
    const ck_kernels *k = ck_kernels_best();
    k->encode[d](block, values, BLOCK);
    FILE *out = fopen(argv[4], "wb");
    if (!out) {
        perror(argv[4]);
        return 1;
    }
    fwrite(head, 1, head_size, out);
    for (size_t i = 0; i < l.count; i++)
        if (order[i]->dtype == CK_I64)
            write_numbers(out, order[i]->nbytes);
        else
            write_data(out, order[i]->dtype, order[i]->nbytes, block, &seed);
    if (fclose(out) != 0) {
        perror(argv[4]);
        return 1;
    }
    return 0;
}
