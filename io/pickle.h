/* A pickle machine that runs nothing: it follows the opcodes of Python's pickles (protocols 0 to 5)
 * and builds inert nodes. What Python would import becomes a GLOBAL node that holds a name, what
 * Python would call becomes a CALL node that holds what is called and its arguments.
 *
 *   ck_pickle_input in = {.read = read_some, .context = file, .name = "m.ckpt"};
 *   ck_pickle_rules rules = {.strict = true, .import = look_at_import};
 *   ck_pickle pickle;
 *   CK_TRY(ck_pickle_load(&in, &rules, &pickle, err));
 *   ... pickle.root ...                                 a graph: shared nodes, even cycles
 *   ck_pickle_free(&pickle);
 *
 * Nodes that the pickle uses again are shared, never copied, so memory and time are in proportion
 * to the bytes that were really there (at most about a hundred bytes for each), whatever they
 * claim. Nothing recurses. A pickle of more than 32 MiB is refused; long texts and bytes, which are
 * skipped, do not count.
 */
#ifndef CK_PICKLE_H
#define CK_PICKLE_H

#include "io/arena.h"
#include "io/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CK_PICKLE_MAX_BYTES = 32 << 20,
    CK_PICKLE_MAX_TEXT = 64 * 1024, /* a longer text becomes OTHER, a longer line is refused */
};

typedef enum ck_pickle_kind {
    CK_PICKLE_NONE,
    CK_PICKLE_BOOL,   /* integer: 0 or 1 */
    CK_PICKLE_INT,    /* integer */
    CK_PICKLE_TEXT,   /* text: count bytes, then a NUL; any bytes */
    CK_PICKLE_TUPLE,  /* items */
    CK_PICKLE_LIST,   /* items */
    CK_PICKLE_DICT,   /* items: key, value, key, value, ... in the order in which they were set */
    CK_PICKLE_GLOBAL, /* text: "module.name", UTF-8 without NUL; count is the module's length */
    CK_PICKLE_CALL,   /* items[0] what is called, items[1] the arguments; whatever is set in or
                         appended to the result follows */
    CK_PICKLE_PERSISTENT, /* items[0]: the id of something kept outside the pickle */
    CK_PICKLE_OTHER,      /* a value of no use here: a float, bytes, a set, ... */
} ck_pickle_kind;

typedef struct ck_pickle_node {
    ck_pickle_kind kind;
    uint32_t count;
    uint32_t capacity; /* of items, while they grow */
    uint64_t offset;   /* of the opcode that made it; 0 for NONE, BOOL, (), and OTHER */
    union {
        int64_t integer;
        const char *text;
        struct ck_pickle_node **items;
    };
} ck_pickle_node;

/* Where pickles come from: a sequence of bytes. Zeroed but for the first three members; may be used
 * for several pickles, one behind the other. */
typedef struct ck_pickle_input {
    /* Up to n bytes to dst; *got is 0 only at the end. */
    ck_status (*read)(void *context, void *dst, size_t n, size_t *got, ck_error *err);
    void *context;
    const char *name; /* for messages: the file, and what in it */
    uint64_t offset;  /* how many bytes have been used */
    size_t at, filled;
    unsigned char buffer[4096];
} ck_pickle_input;

/* read() functions: of a part of a file (context: ck_pickle_range), and of an entry of a zip
 * archive (context: ck_zip_stream). */
typedef struct ck_pickle_range {
    int fd;
    const char *path;
    uint64_t at, end; /* offsets in the file */
} ck_pickle_range;

ck_status ck_pickle_read_range(void *context, void *dst, size_t n, size_t *got, ck_error *err);
ck_status ck_pickle_read_zip(void *context, void *dst, size_t n, size_t *got, ck_error *err);

/* Whether there is another byte. */
ck_status ck_pickle_input_more(ck_pickle_input *in, bool *more, ck_error *err);

typedef struct ck_pickle_import {
    const char *module, *name; /* NULL: names that only a call would produce */
    const char *opcode;        /* "GLOBAL", ... */
    uint64_t offset;
} ck_pickle_import;

typedef struct ck_pickle_rules {
    /* Refuses what no checkpoint needs: opcodes of protocol 0, extension codes and outside buffers,
     * and operands that do not fit. Else whatever Python would get past is got past. */
    bool strict;
    /* Told of every import; stops the machine by returning an error. */
    ck_status (*import)(void *context, const ck_pickle_import *import, ck_error *err);
    void *context;
} ck_pickle_rules;

typedef struct ck_pickle {
    ck_arena arena;
    const ck_pickle_node *root;
    ck_pickle_node **persistent; /* every PERSISTENT node, also those that root does not reach */
    size_t persistent_count, persistent_capacity;
} ck_pickle;

/* Runs one pickle, up to and with its STOP. CK_INPUT names the input, the opcode and its offset.
 * After a failure there is nothing to free. */
ck_status ck_pickle_load(ck_pickle_input *in, const ck_pickle_rules *rules, ck_pickle *pickle,
                         ck_error *err);
void ck_pickle_free(ck_pickle *pickle);

#endif
