/* Neural network kernels for any processor. */
#define SUFFIX portable
#define TARGET
#define VL                  4
#define FMA(a, b, c)        ((a) * (b) + (c))
#define VECTOR_FMA(a, b, c) ((a) * (b) + (c))

#include "kernels/nn_template.h"
