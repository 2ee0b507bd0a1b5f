/* The plain kernels on arrays of float. */
#define real  float
#define TABLE ck_reference_f32

#include "distill/engine/reference_template.h"
