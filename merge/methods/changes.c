/* The arithmetic of changes.h. */
#include "merge/methods/changes.h"

ck_status ck_changes_check(const ck_value *values, size_t inputs, ck_error *err) {
    (void)inputs;
    for (size_t i = 0; i < values[CK_DENSITY].count; i++) {
        double density = values[CK_DENSITY].items[i];
        if (!(density >= 0 && density <= 1))
            return ck_fail(err, CK_USAGE, "density %g: must be from 0 to 1", density);
    }
    return CK_OK;
}

float ck_changes_sum(const ck_arguments *args, float base, const float *changes, bool elect) {
    const double *weights = args->values[CK_WEIGHT].items;
    float all = 0, sum = 0, counted = 0;
    for (size_t i = 1; i < args->inputs; i++) all += changes[i];
    for (size_t i = 1; i < args->inputs; i++) {
        /* A sum of zero elects the positive ones. */
        bool agrees = all >= 0 ? changes[i] > 0 : changes[i] < 0;
        if (elect && !agrees) continue;
        sum += changes[i];
        counted += (float)weights[i - 1];
    }
    if (args->values[CK_NORMALIZE].items[0] != 0 && counted != 0) sum /= counted;
    return base + (float)args->values[CK_LAMBDA].items[0] * sum;
}
