/* What the metrics share. */
#ifndef CK_METRICS_INT_H
#define CK_METRICS_INT_H

#include "distill/judge/metrics.h"

/* The points in f64, to be released with free(); CK_INPUT when one is not finite. */
ck_status ck_metrics__doubles(ck_points points, double **values, ck_error *err);

/* The sum of a[i] b[i], in eight interleaved sums: they need not wait for each other. */
static inline double ck_metrics__dot(const double *a, const double *b, size_t n) {
    double lane[8] = {0}, rest = 0;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
#pragma omp simd
        for (int l = 0; l < 8; l++) lane[l] += a[i + l] * b[i + l];
    }
    for (; i < n; i++) rest += a[i] * b[i];
    return ((lane[0] + lane[4]) + (lane[1] + lane[5])) +
           ((lane[2] + lane[6]) + (lane[3] + lane[7])) + rest;
}

#endif
