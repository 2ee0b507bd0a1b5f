/* The table behind dtype.h. */
#include "kernels/dtype.h"

#include <string.h>

static const struct {
    const char *name;
    unsigned char bits;
    bool is_float;
} types[CK_DTYPE_COUNT] = {
    [CK_BOOL] = {"BOOL", 8, false},
    [CK_F4] = {"F4", 4, false},
    [CK_F6_E2M3] = {"F6_E2M3", 6, false},
    [CK_F6_E3M2] = {"F6_E3M2", 6, false},
    [CK_U8] = {"U8", 8, false},
    [CK_I8] = {"I8", 8, false},
    [CK_F8_E5M2] = {"F8_E5M2", 8, true},
    [CK_F8_E4M3] = {"F8_E4M3", 8, true},
    [CK_F8_E8M0] = {"F8_E8M0", 8, false},
    [CK_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8, false},
    [CK_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8, false},
    [CK_I16] = {"I16", 16, false},
    [CK_U16] = {"U16", 16, false},
    [CK_F16] = {"F16", 16, true},
    [CK_BF16] = {"BF16", 16, true},
    [CK_I32] = {"I32", 32, false},
    [CK_U32] = {"U32", 32, false},
    [CK_F32] = {"F32", 32, true},
    [CK_C64] = {"C64", 64, false},
    [CK_F64] = {"F64", 64, true},
    [CK_I64] = {"I64", 64, false},
    [CK_U64] = {"U64", 64, false},
};

const char *ck_dtype_name(ck_dtype d) {
    return types[d].name;
}

unsigned ck_dtype_bits(ck_dtype d) {
    return types[d].bits;
}

bool ck_dtype_is_float(ck_dtype d) {
    return types[d].is_float;
}

ck_dtype ck_dtype_from_name(const char *name, size_t len) {
    for (int d = 0; d < CK_DTYPE_COUNT; d++)
        if (strlen(types[d].name) == len && memcmp(types[d].name, name, len) == 0)
            return (ck_dtype)d;
    return CK_DTYPE_COUNT;
}
