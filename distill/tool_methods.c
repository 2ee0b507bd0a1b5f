/* ckdistill methods: what can be trained, with the settings of each. */
#include "distill/methods/distill.h"
#include "distill/tools.h"

static bool json;

static const ck_option options[] = {
    {.name = "json", .type = CK_OPT_FLAG, .value = &json, .help = "as one JSON document"},
    {0},
};

static const ck_command command = {
    .name = "ckdistill methods",
    .summary = "list the methods with their settings",
    .synopsis = "[--json]",
    .details = "A config chooses one with {\"method\": {\"name\": NAME, SETTING: VALUE}}.",
    .options = options,
    .examples = "$ ckdistill methods\n"
                "  names, sources, settings with their defaults",
};

static void print(const ck_distill_method *m) {
    printf("%-10s %s\n           %s\n", m->name, m->summary, m->source);
    for (const ck_setting *s = m->settings; s->name; s++)
        printf("             %-10s %-8g %s\n", s->name, s->fallback, s->help);
}

static bool add(cJSON *list, const ck_distill_method *m) {
    cJSON *o = ck_tool_add_object(list), *settings = cJSON_AddArrayToObject(o, "settings");
    bool ok = settings && cJSON_AddStringToObject(o, "name", m->name) &&
              cJSON_AddStringToObject(o, "summary", m->summary) &&
              cJSON_AddStringToObject(o, "source", m->source);
    for (const ck_setting *s = m->settings; s->name && ok; s++) {
        cJSON *item = ck_tool_add_object(settings);
        ok = item && cJSON_AddStringToObject(item, "name", s->name) &&
             cJSON_AddNumberToObject(item, "default", s->fallback) &&
             cJSON_AddNumberToObject(item, "min", s->min) &&
             cJSON_AddNumberToObject(item, "max", s->max) &&
             cJSON_AddStringToObject(item, "help", s->help);
    }
    return ok;
}

static ck_status run(const char *const *operands, size_t count, ck_error *err) {
    (void)operands, (void)count;
    cJSON *list = json ? cJSON_CreateArray() : NULL;
    bool ok = true;
    for (size_t i = 0; ck_distill_method_at(i); i++) {
        if (!json) print(ck_distill_method_at(i));
        if (json) ok = ok && list && add(list, ck_distill_method_at(i));
    }
    return json ? ck_tool_print_json(list, ok, err) : CK_OK;
}

const ck_tool ck_tool_methods = {
    .command = &command, .min_operands = 0, .max_operands = 0, .run = run};
