/* A list of blocks; small requests are carved off the newest one. */
#include "io/arena.h"
#include "io/os.h"

#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_SIZE = 64 * 1024 };

struct ck_arena_block {
    struct ck_arena_block *next;
    size_t used, size;
    alignas(max_align_t) unsigned char data[];
};

void *ck_arena_alloc(ck_arena *arena, size_t n) {
    const size_t unit = alignof(max_align_t);
    if (n > SIZE_MAX - sizeof(struct ck_arena_block) - unit) return NULL;
    n = (n + unit - 1) / unit * unit;
    struct ck_arena_block *block = arena->blocks;
    if (!block || block->size - block->used < n) {
        size_t size = n > BLOCK_SIZE / 4 ? n : BLOCK_SIZE;
        struct ck_arena_block *fresh = ck_alloc(sizeof *fresh + size);
        if (!fresh) return NULL;
        fresh->size = size;
        /* A large request gets a block of its own behind the current one, which stays in use. */
        if (size != BLOCK_SIZE && block) {
            fresh->next = block->next;
            block->next = fresh;
        } else {
            fresh->next = block;
            arena->blocks = fresh;
        }
        block = fresh;
    }
    void *p = block->data + block->used;
    block->used += n;
    return p;
}

char *ck_arena_strndup(ck_arena *arena, const char *s, size_t n) {
    char *copy = ck_arena_alloc(arena, n + 1);
    if (copy) memcpy(copy, s, n);
    return copy;
}

char *ck_arena_strdup(ck_arena *arena, const char *s) {
    return ck_arena_strndup(arena, s, strlen(s));
}

void ck_arena_free(ck_arena *arena) {
    while (arena->blocks) {
        struct ck_arena_block *next = arena->blocks->next;
        free(arena->blocks);
        arena->blocks = next;
    }
}
