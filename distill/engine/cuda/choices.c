/* See choices.h. */
#include "distill/engine/cuda/choices.h"

#include "io/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct made {
    char *kind, *choice;
} made;

static struct {
    made *made;
    size_t count, capacity;
} all;

static made *find(const char *kind) {
    for (size_t i = 0; i < all.count; i++)
        if (strcmp(all.made[i].kind, kind) == 0) return &all.made[i];
    return NULL;
}

const char *ck_choices_find(const char *kind) {
    const made *m = find(kind);
    return m ? m->choice : NULL;
}

ck_status ck_choices_add(const char *kind, const char *choice, ck_error *err) {
    made *m = find(kind), own = {ck_strdup(kind), ck_strdup(choice)};
    if (!m && own.kind && own.choice) {
        made *grown = ck_grow(all.made, all.count, &all.capacity, sizeof *grown);
        if (grown) {
            all.made = grown;
            m = &grown[all.count++];
            *m = (made){0};
        }
    }
    if (!m || !own.kind || !own.choice) {
        free(own.kind), free(own.choice);
        return ck_fail_memory(err, kind);
    }
    free(m->kind), free(m->choice);
    *m = own;
    return CK_OK;
}

bool ck_choices_at(size_t i, const char **kind, const char **choice) {
    if (i >= all.count) return false;
    *kind = all.made[i].kind;
    *choice = all.made[i].choice;
    return true;
}

void ck_choices_hex(const void *bytes, size_t n, char *text) {
    for (size_t i = 0; i < n; i++)
        snprintf(text + 2 * i, 3, "%02x", ((const unsigned char *)bytes)[i]);
}

bool ck_choices_unhex(const char *text, void *bytes, size_t n) {
    if (strlen(text) != 2 * n || strspn(text, "0123456789abcdef") != 2 * n) return false;
    for (size_t i = 0; i < n; i++) {
        char digits[3] = {text[2 * i], text[2 * i + 1], 0};
        ((unsigned char *)bytes)[i] = (unsigned char)strtoul(digits, NULL, 16);
    }
    return true;
}
