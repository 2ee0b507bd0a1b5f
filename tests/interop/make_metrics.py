#!/usr/bin/env python3
"""Writes tests/data/metrics.json: metrics as numpy and scipy compute them.

    python3 tests/interop/make_metrics.py     from the root of the tree; needs: numpy, scipy

The points are those that tests/test_metrics.c makes: kernels/random.h in numpy.
"""
import json

import numpy as np
from scipy.linalg import sqrtm
from scipy.ndimage import laplace
from scipy.spatial.distance import cdist, pdist


def uniform(key, *shape):
    """ck_random_24(key, i) / 2^24 in f32."""
    x = np.uint64(key) + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, np.prod(shape) + 1, dtype=np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return ((x >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).reshape(shape)


def stretched(key, count, dim):
    """Every number with some of its left neighbour's, so that dimensions are not independent."""
    u = uniform(key, count, dim)
    u[:, 1:] += u[:, :-1].copy() * np.float32(0.5)
    return u.astype(np.float64)


def frechet(a, b):
    c, d = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
    if min(len(a), len(b)) > a.shape[1]:
        root = np.trace(sqrtm(c @ d)).real
    else:  # singular: the sum of the singular values of C^(1/2) D^(1/2)
        def half(m):
            w, v = np.linalg.eigh(m)
            return v * np.sqrt(np.maximum(w, 0)) @ v.T
        root = np.linalg.norm(half(c) @ half(d), "nuc")
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c) + np.trace(d) - 2 * root


def kid(a, b):
    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3
    def within(x):
        k = kernel(x, x)
        return (k.sum() - np.trace(k)) / (len(x) * (len(x) - 1))
    return within(a) + within(b) - 2 * kernel(a, b).mean()


def wasserstein(x, y):
    """Of two lists of numbers: both repeated until they are of one length."""
    n = np.lcm(len(x), len(y))
    return np.sqrt(((np.repeat(np.sort(x), n // len(x)) - np.repeat(np.sort(y), n // len(y))) ** 2).mean())


def sliced(a, b, directions):
    v = np.random.default_rng(0).standard_normal((directions, a.shape[1]))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    return np.sqrt(np.mean([wasserstein(a @ d, b @ d) ** 2 for d in v]))


def precision_recall(real, made, k):
    def radii(x):
        return np.sort(cdist(x, x), axis=1)[:, k]
    d = cdist(real, made)
    return (d <= radii(real)[:, None]).any(0).mean(), (d <= radii(made)).any(1).mean()


out = {
    "frechet": [[n, m, d, frechet(stretched(1, n, d), uniform(2, m, d).astype(float))]
                for n, m, d in ((50, 60, 1), (30, 40, 2), (300, 400, 67), (20, 500, 64))],
    "kid": kid(stretched(1, 40, 13), uniform(2, 40, 13).astype(float)),
    "wasserstein": wasserstein(uniform(1, 30).astype(float), 2 * uniform(2, 42).astype(float)),
    "sliced": sliced(stretched(1, 200, 10), uniform(2, 300, 10).astype(float), 20000),
    "precision_recall": precision_recall(uniform(1, 300, 3).astype(float), stretched(2, 200, 3), 5),
    "diversity": pdist(stretched(1, 70, 11)).mean(),
}
images = uniform(3, 6, 9, 12).astype(float)
other = uniform(4, 6, 9, 12).astype(float)
out["sharpness"] = np.mean([laplace(i)[1:-1, 1:-1].var() for i in images])
out["psnr"] = 10 * np.log10(4 / ((images - other) ** 2).mean())

with open("tests/data/metrics.json", "w") as f:
    f.write(json.dumps(out, indent=0) + "\n")
