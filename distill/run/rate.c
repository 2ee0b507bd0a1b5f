/* Learning rates, see rate.h. */
#include "distill/run/rate.h"

#include <math.h>

double ck_rate_at(const ck_rate *rate, uint64_t step) {
    if (step < rate->warmup) return rate->peak * (double)(step + 1) / (double)rate->warmup;
    if (rate->shape == CK_RATE_CONSTANT) return rate->peak;
    double least = rate->peak * rate->least;
    if (step >= rate->steps) return least;
    double way = (double)(step - rate->warmup) / (double)(rate->steps - rate->warmup);
    double left = rate->shape == CK_RATE_LINEAR ? 1 - way : (1 + cos(M_PI * way)) / 2;
    return least + (rate->peak - least) * left;
}
