/* The part asked for is cut into boxes, and every box is walked in the order of the file; see
 * strided.h. */
#include "io/strided.h"
#include "io/os.h"

#include <string.h>

typedef struct walk {
    const ck_strided *view;
    uint64_t end; /* bytes behind offset where the last element ends */
    unsigned char *dst;
    ck_error *err;
    uint64_t window_begin; /* what of the file window holds, as bytes behind offset */
    size_t window_size;
    unsigned char window[CK_PAGE];
} walk;

/* A dimension of a box; steps are in elements, of the file and of the packed data. */
typedef struct dimension {
    uint64_t extent, from, to;
} dimension;

/* Points *p to n <= CK_PAGE bytes at `at`, and reads on for what comes next. */
static ck_status fetch(walk *w, uint64_t at, size_t n, const unsigned char **p) {
    if (at < w->window_begin || at + n > w->window_begin + w->window_size) {
        uint64_t left = w->end - at;
        w->window_size = left < CK_PAGE ? (size_t)left : CK_PAGE;
        w->window_begin = at;
        ck_status status = ck_pread_all(w->view->fd, w->window, w->window_size,
                                        w->view->offset + at, w->view->path, w->err);
        if (status != CK_OK) {
            w->window_size = 0;
            return status;
        }
    }
    *p = w->window + (at - w->window_begin);
    return CK_OK;
}

/* One line of elements along a dimension, from element `from` of the file to `to` of dst. */
static ck_status copy_line(walk *w, dimension d, uint64_t from, uint64_t to) {
    const size_t size = w->view->size;
    if (d.from == 1 && d.to == 1 && d.extent * size >= CK_PAGE)
        return ck_pread_all(w->view->fd, w->dst + to * size, (size_t)d.extent * size,
                            w->view->offset + from * size, w->view->path, w->err);
    /* As many elements at a time as a window holds, from the first to the last of them. */
    uint64_t most = d.from == 0                ? d.extent
                    : d.from >= CK_PAGE / size ? 1
                                               : (CK_PAGE / size - 1) / d.from + 1;
    for (uint64_t done = 0; done < d.extent;) {
        uint64_t n = d.extent - done < most ? d.extent - done : most;
        const unsigned char *source;
        CK_TRY(fetch(w, (from + done * d.from) * size, (size_t)((n - 1) * d.from + 1) * size,
                     &source));
        unsigned char *target = w->dst + (to + done * d.to) * size;
        for (uint64_t i = 0; i < n; i++)
            memcpy(target + i * d.to * size, source + i * d.from * size, size);
        done += n;
    }
    return CK_OK;
}

/* Rows of dimension k, whole in all dimensions behind it, to dst from element 0 on. */
static ck_status copy_box(walk *w, size_t k, uint64_t from, uint64_t rows) {
    const ck_strided *v = w->view;
    dimension box[CK_STRIDED_MAX_RANK + 1];
    size_t n = 0;
    uint64_t to_step = 1;
    for (size_t i = v->rank; i > k; i--) {
        dimension d = {i - 1 == k ? rows : v->shape[i - 1], v->strides[i - 1], to_step};
        to_step *= d.extent;
        if (d.extent == 1) continue;
        /* The shortest step goes last; repeated elements (step 0) are walked outermost, so that
         * whole lines repeat. 0 - 1 is the largest of all. */
        size_t at = n++;
        for (; at > 0 && box[at - 1].from - 1 < d.from - 1; at--) box[at] = box[at - 1];
        box[at] = d;
    }
    if (n == 0) box[n++] = (dimension){1, 1, 1};
    uint64_t index[CK_STRIDED_MAX_RANK] = {0}, to = 0;
    for (;;) {
        CK_TRY(copy_line(w, box[n - 1], from, to));
        size_t i = n - 1;
        for (; i > 0 && index[i - 1] + 1 == box[i - 1].extent; i--) {
            from -= index[i - 1] * box[i - 1].from;
            to -= index[i - 1] * box[i - 1].to;
            index[i - 1] = 0;
        }
        if (i == 0) return CK_OK;
        index[i - 1]++;
        from += box[i - 1].from;
        to += box[i - 1].to;
    }
}

/* Elements [first, first + count) of the dimensions from k on: part of a row, whole rows, part of a
 * row. */
static ck_status copy_part(walk *w, size_t k, uint64_t from, uint64_t first, uint64_t count) {
    const ck_strided *v = w->view;
    uint64_t row = 1; /* elements of one */
    for (size_t i = k + 1; i < v->rank; i++) row *= v->shape[i];
    while (count > 0) {
        uint64_t start = from + (k < v->rank ? first / row * v->strides[k] : 0), n;
        uint64_t within = first % row;
        if (within || count < row) {
            n = count < row - within ? count : row - within;
            CK_TRY(copy_part(w, k + 1, start, within, n));
        } else {
            n = count / row * row;
            CK_TRY(copy_box(w, k, start, count / row));
            w->dst += n * v->size;
        }
        first += n;
        count -= n;
    }
    return CK_OK;
}

ck_status ck_strided_read(const ck_strided *view, uint64_t first, uint64_t count, void *dst,
                          ck_error *err) {
    if (count == 0) return CK_OK;
    walk w = {.view = view, .dst = dst, .err = err};
    uint64_t last = 0;
    for (size_t i = 0; i < view->rank; i++) last += (view->shape[i] - 1) * view->strides[i];
    w.end = (last + 1) * view->size;
    return copy_part(&w, 0, 0, first, count);
}
