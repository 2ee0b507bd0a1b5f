/* Reading the config.json of a model: what is not known is refused by name, never guessed. */
#ifndef CK_MODEL_CONFIG_INT_H
#define CK_MODEL_CONFIG_INT_H

#include "io/json.h"

/* Settings that a file may have. */
typedef struct ck_model_setting {
    const char *names; /* apart by spaces */
    /* NULL: the model's reader asks for it. "": any value, it does not change the network. Else
     * a JSON list of the values that are implemented. */
    const char *accepted;
} ck_model_setting;

/* CK_INPUT unless the document is an object, its _class_name is this one, and all its settings are
 * accepted, by the table (which ends with NULL names) or as what diffusers writes for any class. */
ck_status ck_model__check(const ck_json *doc, const char *class_name,
                          const ck_model_setting *settings, ck_error *err);
/* The same of a config of transformers, whose model_type, if it says one, is this one. */
ck_status ck_model__check_text(const ck_json *doc, const char *model_type,
                               const ck_model_setting *settings, ck_error *err);

/* The field, or NULL where it is absent or null. */
const cJSON *ck_model__field(const ck_json *doc, const char *name);

/* Whole numbers from low to high; absent or null leaves *value. */
ck_status ck_model__whole(const ck_json *doc, const cJSON *node, int64_t low, int64_t high,
                          int64_t *value, ck_error *err);
ck_status ck_model__size(const ck_json *doc, const char *name, int64_t low, int64_t high,
                         int64_t *value, ck_error *err);
/* One number for all, or a list of n. */
ck_status ck_model__sizes(const ck_json *doc, const char *name, int64_t low, int64_t high, size_t n,
                          int64_t *values, ck_error *err);
ck_status ck_model__real(const ck_json *doc, const char *name, double low, double high,
                         double *value, ck_error *err);
ck_status ck_model__flag(const ck_json *doc, const char *name, bool *value, ck_error *err);
/* The place of a text in names, which end with NULL. */
ck_status ck_model__choice(const ck_json *doc, const cJSON *node, const char *const *names,
                           int *choice, ck_error *err);

/* A field of a config.json and its new value; NULL: out of memory. */
typedef struct ck_model_change {
    const char *name;
    cJSON *value;
} ck_model_change;

/* A copy of a config.json with these fields anew, whose values are taken over; replaces what is
 * there. */
ck_status ck_model__write(const char *from, const ck_model_change *changes, size_t count,
                          const char *to, ck_error *err);

#endif
