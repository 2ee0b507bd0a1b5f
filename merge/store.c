/* A sorted list; see store.h. */
#include "merge/store.h"
#include "io/os.h"

#include <stdint.h>
#include <stdlib.h>

bool ck_store_add(ck_store *s, const ck_reader *reader, const ck_tensor *tensor) {
    ck_stored *grown = ck_grow(s->items, s->count, &s->capacity, sizeof *grown);
    if (!grown) return false;
    s->items = grown;
    s->items[s->count++] = (ck_stored){.tensor = tensor, .reader = reader};
    return true;
}

static int by_address(const void *a, const void *b) {
    uintptr_t x = (uintptr_t)((const ck_stored *)a)->tensor;
    uintptr_t y = (uintptr_t)((const ck_stored *)b)->tensor;
    return (x > y) - (x < y);
}

bool ck_store_begin(ck_store *s) {
    size_t kept = 0;
    if (s->count) qsort(s->items, s->count, sizeof *s->items, by_address);
    for (size_t i = 0; i < s->count; i++)
        if (i == 0 || s->items[i].tensor != s->items[kept - 1].tensor)
            s->items[kept++] = s->items[i];
    s->count = kept;
    s->next = 0;
    for (size_t i = 0; i < kept; i++)
        if (!(s->items[i].data = ck_alloc_pages((size_t)s->items[i].tensor->nbytes))) return false;
    return true;
}

bool ck_store_load(ck_store *s, ck_status *status, ck_error *err) {
    size_t i = atomic_fetch_add(&s->next, 1);
    if (i >= s->count) return false;
    const ck_stored *one = &s->items[i];
    *status =
        ck_reader_read(one->reader, one->tensor, 0, one->data, (size_t)one->tensor->nbytes, err);
    return true;
}

const unsigned char *ck_store_find(const ck_store *s, const ck_tensor *tensor) {
    const ck_stored key = {.tensor = tensor};
    const ck_stored *found =
        s->count ? bsearch(&key, s->items, s->count, sizeof key, by_address) : NULL;
    return found ? found->data : NULL;
}

void ck_store_empty(ck_store *s) {
    for (size_t i = 0; i < s->count; i++) free(s->items[i].data);
    free(s->items);
    *s = (ck_store){0};
}
