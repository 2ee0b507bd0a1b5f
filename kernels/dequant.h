/* Block-quantised weights, as GGUF files store them, to f32.
 *
 *   const ck_quant *q = &ck_quant_q4_k;
 *   q->decode(values, block);              q->elements floats from q->bytes bytes
 *
 * A block holds consecutive elements of one row with their shared scales, packed, little-endian, at
 * any alignment. Every product and sum is rounded to f32 on its own, in the order of the reference
 * implementation, so that the values have its bits.
 */
#ifndef CK_DEQUANT_H
#define CK_DEQUANT_H

#include <stddef.h>

enum { CK_QUANT_MAX_ELEMENTS = 256 }; /* of one block of any type */

typedef struct ck_quant {
    const char *name; /* as the format's users write it, "Q4_K" */
    size_t elements;  /* in a block */
    size_t bytes;     /* of a block */
    void (*decode)(float *values, const unsigned char *block);
} ck_quant;

/* The digit is the bits of an element. _0: a scale for 32 elements; _1: a scale and a minimum for
 * 32; _k: blocks of 256 whose groups have quantised scales of their own. */
extern const ck_quant ck_quant_q4_0, ck_quant_q4_1, ck_quant_q5_0, ck_quant_q5_1, ck_quant_q8_0;
extern const ck_quant ck_quant_q4_k, ck_quant_q5_k, ck_quant_q6_k;

#endif
