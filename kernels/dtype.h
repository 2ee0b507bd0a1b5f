/* Element types: the names that safetensors headers use, with their sizes.
 *
 *   ck_dtype d = ck_dtype_from_name("BF16", 4);
 *   if (d != CK_DTYPE_COUNT && ck_dtype_is_float(d)) ... ck_dtype_bits(d) ...
 *
 * The enumerators stand in the order of the reference serializer (it writes tensors in descending
 * order of this enum, so every tensor is aligned to its own element size).
 */
#ifndef CK_DTYPE_H
#define CK_DTYPE_H

#include <stdbool.h>
#include <stddef.h>

typedef enum ck_dtype {
    CK_BOOL,
    CK_F4,
    CK_F6_E2M3,
    CK_F6_E3M2,
    CK_U8,
    CK_I8,
    CK_F8_E5M2,
    CK_F8_E4M3,
    CK_F8_E8M0,
    CK_F8_E4M3FNUZ,
    CK_F8_E5M2FNUZ,
    CK_I16,
    CK_U16,
    CK_F16,
    CK_BF16,
    CK_I32,
    CK_U32,
    CK_F32,
    CK_C64,
    CK_F64,
    CK_I64,
    CK_U64,
    CK_DTYPE_COUNT /* also: "no such dtype" */
} ck_dtype;

/* "F16", "I64", ...; never NULL for a valid dtype. */
const char *ck_dtype_name(ck_dtype d);

/* Bits of one element: 4 to 64. */
unsigned ck_dtype_bits(ck_dtype d);

/* True for the types that can be mixed: F64 F32 F16 BF16 F8_E4M3 F8_E5M2. All others are carried
 * bit for bit (integers, and float formats that only make sense with their scale tensors). */
bool ck_dtype_is_float(ck_dtype d);

/* Exact, case-sensitive; CK_DTYPE_COUNT if there is no such name. */
ck_dtype ck_dtype_from_name(const char *name, size_t len);

#endif
