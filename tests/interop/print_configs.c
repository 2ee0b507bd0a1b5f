/* For check_configs.py: what a diffusers folder of each published model would say (io/pipeline.h),
 * and the names and shapes of its tensors.
 *
 *   print_configs        lines of "case NAME", "index JSON", "config PREFIX JSON", "tensor NAME
 * SHAPE"
 */
#include "io/layout.h"
#include "io/pipeline.h"
#include "tests/layouts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ck_error err;

static void print(const char *what, const char *which, ck_status status, cJSON *json) {
    char *text = status == CK_OK ? cJSON_PrintUnformatted(json) : NULL;
    printf("%s\t%s\t%s\n", text ? what : "none", which, text ? text : err.message);
    if (text) cJSON_Delete(json);
    free(text);
}

static void print_component(const ck_reader *r, const ck_anatomy *a, size_t c) {
    cJSON *json = NULL;
    const char *prefix = a->components[c].prefix;
    ck_status status = ck_pipeline_config(r, a, c, &json, &err);
    print("config", prefix, status, json);
    for (size_t t = 0; t < ck_reader_count(r) && status == CK_OK; t++) {
        const ck_tensor *tensor = ck_reader_tensor(r, t);
        char shape[64];
        if (a->component_of[t] == c)
            printf("tensor\t%s\t%s\n", tensor->name + strlen(prefix),
                   ck_tensor_shape_text(tensor, shape, sizeof shape));
    }
}

static void print_model(const ck_reader *r) {
    cJSON *json = NULL;
    ck_anatomy a;
    if (ck_anatomy_of(r, &a, &err) != CK_OK) return;
    ck_status status = ck_pipeline_index(r, &a, &json, &err);
    print("index", "", status, json);
    status = ck_pipeline_scheduler(r, &a, &json, &err);
    print("index", "scheduler", status, json);
    for (size_t c = 0; c < a.component_count; c++)
        if (ck_part_is_model(a.components[c].part)) print_component(r, &a, c);
    ck_anatomy_free(&a);
}

int main(void) {
    for (size_t i = 0; i < layout_case_count; i++) {
        layout l;
        ck_reader *view;
        layout_make(&l, &layout_cases[i], false);
        ck_reader *r = layout_reader(&l);
        printf("case\t%s\n", layout_cases[i].name);
        if (ck_layout_convert(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_DROP, &view, NULL, &err) == CK_OK) {
            print_model(view);
            ck_reader_close(view);
        }
        ck_reader_close(r);
        layout_free(&l);
    }
    return 0;
}
