/* libFuzzer: any text as a recipe must be read or refused; what is read can be written, and what is
 * written reads back to the same text. */
#include "merge/recipe.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const char *const settings[] = {"s=0.5"};
    ck_recipe r, again;
    ck_error err;
    for (size_t count = 0; count < 2; count++) {
        if (ck_recipe_parse("r", (const char *)data, n, NULL, settings, count, &r, &err) != CK_OK)
            continue;
        char *first, *second;
        if (ck_recipe_text(&r, CK_PATH_NAME, NULL, &first, &err) != CK_OK) abort();
        if (ck_recipe_parse("r", first, strlen(first), NULL, NULL, 0, &again, &err) != CK_OK)
            abort();
        if (ck_recipe_text(&again, CK_PATH_NAME, NULL, &second, &err) != CK_OK) abort();
        if (strcmp(first, second) != 0) abort();
        free(first);
        free(second);
        ck_recipe_free(&again);
        ck_recipe_free(&r);
    }
    return 0;
}
