/* The table of merge methods. */
#include "io/os.h"
#include "merge/method.h"

#include <stdio.h>
#include <string.h>

extern const ck_method ck_adjust;
extern const ck_method ck_weighted_sum, ck_add_difference, ck_linear_method, ck_n_average,
    ck_triple_sum, ck_sum_twice, ck_train_difference, ck_similarity, ck_task_arithmetic,
    ck_weighted_subtraction, ck_near_swap, ck_ties, ck_dare_linear, ck_dare_ties, ck_clamp,
    ck_scale, ck_slerp, ck_multi_slerp, ck_multi_slerp_of_changes, ck_karcher, ck_model_stock,
    ck_geometric_median, ck_nuslerp, ck_perpendicular, ck_ram, ck_lora_method, ck_breadcrumbs,
    ck_breadcrumbs_ties, ck_tensor_sum, ck_top_k_tensor_sum, ck_cosine_a, ck_cosine_b, ck_sce,
    ck_arcee_fusion, ck_multiply_difference, ck_passthrough, ck_della, ck_della_linear,
    ck_smooth_add, ck_crossover;

const ck_method *const ck_methods[] = {
    &ck_weighted_sum,
    &ck_add_difference,
    &ck_linear_method,
    &ck_n_average,
    &ck_triple_sum,
    &ck_sum_twice,
    &ck_train_difference,
    &ck_smooth_add,
    &ck_similarity,
    &ck_multiply_difference,
    &ck_crossover,
    &ck_cosine_a,
    &ck_cosine_b,
    &ck_tensor_sum,
    &ck_top_k_tensor_sum,
    &ck_task_arithmetic,
    &ck_ties,
    &ck_dare_linear,
    &ck_dare_ties,
    &ck_della_linear,
    &ck_della,
    &ck_breadcrumbs,
    &ck_breadcrumbs_ties,
    &ck_weighted_subtraction,
    &ck_near_swap,
    &ck_clamp,
    &ck_adjust,
    &ck_slerp,
    &ck_nuslerp,
    &ck_multi_slerp,
    &ck_multi_slerp_of_changes,
    &ck_karcher,
    &ck_geometric_median,
    &ck_model_stock,
    &ck_sce,
    &ck_arcee_fusion,
    &ck_ram,
    &ck_perpendicular,
    &ck_scale,
    &ck_passthrough,
    &ck_lora_method,
    NULL,
};

/* '-' and '_' are the same: recipes of other tools and shells prefer one or the other. */
static bool same_name(const char *a, const char *b) {
    for (; *a && *b; a++, b++)
        if (*a != *b && !((*a == '-' || *a == '_') && (*b == '-' || *b == '_'))) return false;
    return *a == *b;
}

const ck_method *ck_method_find(const char *name) {
    for (size_t i = 0; ck_methods[i]; i++)
        if (same_name(ck_methods[i]->name, name)) return ck_methods[i];
    return NULL;
}

bool ck_survey_add(ck_survey *s, float number) {
    float *grown = ck_grow(s->numbers, s->count, &s->capacity, sizeof *grown);
    if (!grown) return false;
    s->numbers = grown;
    s->numbers[s->count++] = number;
    return true;
}

size_t ck_method_list_length(const ck_method *m, size_t inputs) {
    return m->has_base ? inputs - 1 : inputs;
}

const char *ck_parameter_text(const ck_parameter *p, double number, char *buf, size_t size) {
    if (p->on_off)
        snprintf(buf, size, "%s", number != 0 ? "on" : "off");
    else
        snprintf(buf, size, "%g", number);
    return buf;
}

bool ck_on_off(const char *text, double *number) {
    *number = strcmp(text, "on") == 0;
    return *number != 0 || strcmp(text, "off") == 0;
}

int ck_method_parameter(const ck_method *m, const char *name) {
    for (int i = 0; m->parameters[i].name; i++)
        if (same_name(m->parameters[i].name, name)) return i;
    return -1;
}
