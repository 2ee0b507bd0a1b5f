/* The plain kernels on arrays of double, for gradients against finite differences. */
#define real  double
#define TABLE ck_reference_f64

#include "distill/engine/reference_template.h"
