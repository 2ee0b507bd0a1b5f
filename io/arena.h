/* Memory that lives and dies together: many small allocations, one release.
 *
 *   ck_arena arena = {0};
 *   char *name = ck_arena_strdup(&arena, "x");       NULL when out of memory
 *   ck_arena_free(&arena);
 */
#ifndef CK_ARENA_H
#define CK_ARENA_H

#include <stddef.h>

typedef struct ck_arena {
    struct ck_arena_block *blocks;
} ck_arena;

/* n zeroed bytes aligned for any type; NULL when there is no memory. */
void *ck_arena_alloc(ck_arena *arena, size_t n);

char *ck_arena_strdup(ck_arena *arena, const char *s);
char *ck_arena_strndup(ck_arena *arena, const char *s, size_t n);

/* Releases everything; the arena can be used again. */
void ck_arena_free(ck_arena *arena);

#endif
