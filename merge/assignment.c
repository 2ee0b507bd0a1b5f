/* Shortest augmenting paths, see assignment.h. Costs are gains with the other sign. */
#include "merge/assignment.h"
#include "io/os.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

static const uint32_t NOBODY = UINT32_MAX;

typedef struct problem {
    const float *gain;
    size_t n, stride;
    double *row_price, *column_price; /* cost - both prices is never negative, 0 for pairs */
    uint32_t *column, *row;           /* of each row, of each column */
    double *distance;                 /* of each column from the row that looks for one */
    uint32_t *from;                   /* the row before it on the shortest path */
    uint32_t *open;                   /* columns whose distance is not final, then those it is */
    size_t open_count;
} problem;

static double cost(const problem *p, size_t i, size_t j) {
    return -(double)p->gain[i * p->stride + j];
}

/* Every column is priced at its least cost and goes to the row that has it, if that is free. */
static void reduce_columns(problem *p) {
    for (size_t j = 0; j < p->n; j++) {
        p->column_price[j] = INFINITY;
        p->row[j] = p->column[j] = NOBODY;
    }
    for (size_t i = 0; i < p->n; i++)
        for (size_t j = 0; j < p->n; j++)
            if (cost(p, i, j) < p->column_price[j]) {
                p->column_price[j] = cost(p, i, j);
                p->from[j] = (uint32_t)i;
            }
    for (size_t j = 0; j < p->n; j++)
        if (p->column[p->from[j]] == NOBODY) {
            p->column[p->from[j]] = (uint32_t)j;
            p->row[j] = p->from[j];
        }
}

/* The nearest free column over pairs that exist (Dijkstra); *length is its distance. */
static uint32_t find_path(problem *p, size_t start, double *length) {
    p->open_count = p->n;
    for (size_t j = 0; j < p->n; j++) {
        p->distance[j] = INFINITY;
        p->open[j] = (uint32_t)j;
    }
    *length = 0;
    for (size_t i = start;;) {
        size_t nearest = 0;
        double least = INFINITY;
        for (size_t k = 0; k < p->open_count; k++) {
            uint32_t j = p->open[k];
            double d = *length + (cost(p, i, j) - p->row_price[i] - p->column_price[j]);
            if (d < p->distance[j]) {
                p->distance[j] = d;
                p->from[j] = (uint32_t)i;
            }
            bool better =
                p->distance[j] < least || (p->distance[j] == least && p->row[j] == NOBODY);
            if (!better) continue;
            least = p->distance[j];
            nearest = k;
        }
        *length = least;
        uint32_t j = p->open[nearest];
        p->open[nearest] = p->open[--p->open_count];
        p->open[p->open_count] = j;
        if (p->row[j] == NOBODY) return j;
        i = p->row[j];
    }
}

/* Gives a row a column; others move over. */
static void augment(problem *p, uint32_t start) {
    double length;
    uint32_t j = find_path(p, start, &length);
    p->row_price[start] += length;
    for (size_t k = p->open_count; k < p->n; k++) {
        uint32_t seen = p->open[k];
        double saved = length - p->distance[seen];
        p->column_price[seen] -= saved;
        if (p->row[seen] != NOBODY) p->row_price[p->row[seen]] += saved;
    }
    for (;;) {
        uint32_t i = p->from[j], before = p->column[i];
        p->row[j] = i;
        p->column[i] = j;
        if (i == start) return;
        j = before;
    }
}

ck_status ck_assign(const float *gain, size_t n, size_t stride, uint32_t *column, ck_error *err) {
    double *prices = ck_alloc_array(n, 3 * sizeof *prices);
    uint32_t *places = ck_alloc_array(n, 3 * sizeof *places);
    ck_status status = prices && places ? CK_OK : ck_fail_memory(err, "assignment");
    if (status == CK_OK) {
        problem p = {.gain = gain,
                     .n = n,
                     .stride = stride,
                     .row_price = prices,
                     .column_price = prices + n,
                     .distance = prices + 2 * n,
                     .column = column,
                     .row = places,
                     .from = places + n,
                     .open = places + 2 * n};
        reduce_columns(&p);
        for (size_t i = 0; i < n; i++)
            if (column[i] == NOBODY) augment(&p, (uint32_t)i);
    }
    free(prices);
    free(places);
    return status;
}
