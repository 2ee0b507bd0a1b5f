/* Numbers that say how good generated images are: how far their distribution is from the data's,
 * and what they look like. Nothing is downloaded; features are any floats, such as those of
 * distill/judge/classifier.h.
 *
 *   ck_points real = {features, 10000, 128}, made = {...};
 *   CK_TRY(ck_frechet(real, made, &distance, err));
 *   CK_TRY(ck_kid(real, made, 50, 1000, seed, &kid, err));
 *
 * The same input gives the same bits with any number of threads; sums are f64. An input that is not
 * finite is CK_INPUT, too few points or dimensions that do not fit are CK_USAGE.
 */
#ifndef CK_METRICS_H
#define CK_METRICS_H

#include "io/error.h"

#include <stddef.h>
#include <stdint.h>

/* count rows of dim numbers each. */
typedef struct ck_points {
    const float *values;
    size_t count, dim;
} ck_points;

/* count images, each channels x height x width numbers. */
typedef struct ck_images {
    const float *pixels;
    size_t count, channels, height, width;
} ck_images;

/* ---- Distances between two sets of points, 0 where both come from one distribution ---- */

/* The normal distribution with the mean and covariance (divided by count - 1) of some points; what
 * is measured against again and again is fitted once. */
typedef struct ck_gaussian {
    size_t dim;
    double *mean;       /* dim */
    double *covariance; /* dim x dim */
} ck_gaussian;

/* At least two points. */
ck_status ck_gaussian_fit(ck_points points, ck_gaussian *g, ck_error *err);
void ck_gaussian_free(ck_gaussian *g); /* a zeroed one is allowed */

/* The (squared) Frechet distance of two normal distributions, |m1 - m2|^2 + tr(C1 + C2 - 2 (C1
 * C2)^(1/2)) (Dowson and Landau, 1982); with Inception's features it is known as FID (Heusel et
 * al., 2017). Estimated from n points it is too large by about dim / n; n should be 10 times dim.
 */
ck_status ck_frechet_gaussians(const ck_gaussian *a, const ck_gaussian *b, double *distance,
                               ck_error *err);
ck_status ck_frechet(ck_points a, ck_points b, double *distance, ck_error *err);

/* The kernel distance KID (Binkowski et al., 2018): the unbiased squared maximum mean discrepancy
 * for the kernel (x.y / dim + 1)^3, between random subsets of both sets; may be below 0. */
typedef struct ck_kid_result {
    double mean, deviation; /* over the subsets; the deviation of one subset, divided by subsets */
} ck_kid_result;
ck_status ck_kid(ck_points a, ck_points b, size_t subsets, size_t subset_size, uint64_t seed,
                 ck_kid_result *result, ck_error *err);

/* The sliced 2-Wasserstein distance (Rabin et al., 2011): both sets are projected on random
 * directions of length 1; in one dimension the best transport takes the k-th to the k-th. The root
 * of the mean square of the way, over points and directions. For points in the plane, latents and
 * pixels; kind to blur. The sets may differ in size. */
ck_status ck_sliced_wasserstein(ck_points a, ck_points b, size_t directions, uint64_t seed,
                                double *distance, ck_error *err);

/* ---- Fidelity and variety ---- */

/* Improved precision and recall (Kynkaanniemi et al., 2019): the share of made points that lie in
 * the real manifold, and of real points in the made one. A manifold is the union of the balls
 * around its points that reach as far as the k-th nearest other point. k is below both counts. Blur
 * costs precision, missing kinds cost recall. */
typedef struct ck_precision_recall_result {
    double precision, recall;
} ck_precision_recall_result;
ck_status ck_precision_recall(ck_points real, ck_points made, size_t k,
                              ck_precision_recall_result *result, ck_error *err);

/* The mean (Euclidean) distance of two different points. */
ck_status ck_diversity(ck_points points, double *distance, ck_error *err);

/* ---- Images ---- */

/* Peak signal to noise ratio in dB, 10 log10(range^2 / mean square difference), the mean being over
 * all pixels of all images; range is the largest possible difference (2 for pixels in [-1, 1]).
 * INFINITY for equal images. Both have n numbers. */
ck_status ck_psnr(const float *a, const float *b, size_t n, double range, double *psnr,
                  ck_error *err);

/* The variance of the Laplacian (Pech-Pacheco et al., 2000): of what the cross of 1, 1, -4, 1, 1
 * gives at every pixel that has four neighbours; the mean over channels and images. Low is blurred;
 * noise is high too. Images of at least 3 x 3 pixels. */
ck_status ck_sharpness(ck_images images, double *sharpness, ck_error *err);

/* ---- The checkerboard: a distribution in the plane that shows what a method loses ---- */

/* Even over the filled 8 of 4 x 4 squares of [-1, 1)^2, where column and row from 0 have an even
 * sum. The share of points that are anywhere else. */
ck_status ck_checkerboard_off(ck_points points, double *share, ck_error *err);

/* Points first to first + count - 1 of it, at dim 2, the same for the same seed. */
void ck_checkerboard_fill(uint64_t seed, size_t first, size_t count, float *values);

#endif
