/* What fuzzers of recipe languages do with a recipe that was read. */
#ifndef FUZZ_READ_BACK_H
#define FUZZ_READ_BACK_H

#include "merge/recipe.h"

#include <stdlib.h>
#include <string.h>

/* It can be written, and if it is good read back. Releases it. */
static inline void read_back(ck_recipe *r) {
    ck_recipe again;
    ck_error err;
    char *text;
    bool good = ck_recipe_check(r, &err) == CK_OK;
    if (ck_recipe_text(r, CK_PATH_NAME, NULL, &text, &err) != CK_OK) abort();
    if (good && ck_recipe_parse("r", text, strlen(text), NULL, NULL, 0, &again, &err) != CK_OK)
        abort();
    if (good) ck_recipe_free(&again);
    free(text);
    ck_recipe_free(r);
}

#endif
