/* Tensors of models, whole in memory, for as long as several things are made of them.
 *
 *   ck_store s = {0};
 *   ck_store_add(&s, reader, tensor)             what will be wanted; twice is once
 *   ck_store_begin(&s)
 *   while (ck_store_load(&s, &status, err)) ...  by any number of threads
 *   ck_store_find(&s, tensor)                    its bytes
 *   ck_store_empty(&s);
 */
#ifndef CK_STORE_H
#define CK_STORE_H

#include "io/reader.h"

#include <stdatomic.h>

typedef struct ck_stored {
    const ck_tensor *tensor;
    const ck_reader *reader;
    unsigned char *data;
} ck_stored;

typedef struct ck_store {
    ck_stored *items; /* from ck_store_begin on in the order of their addresses, each once */
    size_t count, capacity;
    _Atomic size_t next; /* to be read */
} ck_store;

/* Both: false: no memory. */
bool ck_store_add(ck_store *s, const ck_reader *reader, const ck_tensor *tensor);
bool ck_store_begin(ck_store *s);

/* Reads the next tensor; false: there was none. When all threads have seen that, everything is
 * there, if *status (as ck_reader_read) was always CK_OK. */
bool ck_store_load(ck_store *s, ck_status *status, ck_error *err);

/* The tensor's bytes, or NULL. */
const unsigned char *ck_store_find(const ck_store *s, const ck_tensor *tensor);

/* Releases everything; more can be added then. */
void ck_store_empty(ck_store *s);

#endif
