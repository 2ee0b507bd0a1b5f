/* Merge kernels for any processor: vectors of four, fused multiply-add from the C library (which
 * is exact everywhere, and slow where the processor has none). */
#include <math.h>

#define SUFFIX portable
#define TARGET
#define VL 4

typedef float fma_vector __attribute__((vector_size(16)));

static inline fma_vector fma4(fma_vector a, fma_vector b, fma_vector c) {
    return (fma_vector){fmaf(a[0], b[0], c[0]), fmaf(a[1], b[1], c[1]), fmaf(a[2], b[2], c[2]),
                        fmaf(a[3], b[3], c[3])};
}

static inline float root(float x, float y) {
    return (float)sqrt((double)x * (double)y);
}

#define ANY(mask) (((mask)[0] | (mask)[1] | (mask)[2] | (mask)[3]) != 0)
#define LOOKUP16(table, j)                                                                         \
    ((vf){(table)[(j)[0] & 15], (table)[(j)[1] & 15], (table)[(j)[2] & 15], (table)[(j)[3] & 15]})
#define ROOT(x, y)                                                                                 \
    ((vf){root((x)[0], (y)[0]), root((x)[1], (y)[1]), root((x)[2], (y)[2]), root((x)[3], (y)[3])})
#define FMA(a, b, c)    fma4(a, b, c)
#define MUL_EVEN(a, b)  (((vu64)(a)&0xffffffffu) * ((vu64)(b)&0xffffffffu))
#define PAIR_LOW(a, b)  ((vu64){(a)[0], (b)[0]})
#define PAIR_HIGH(a, b) ((vu64){(a)[1], (b)[1]})

#include "kernels/merge_template.h"
