/* See model_config_int.h. */
#include "distill/models/model_config_int.h"

#include "io/writer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What both libraries write for any class, and what has no part in what is computed here: where it
 * is from, how text would be generated, how classes would be named. */
static const ck_model_setting of_diffusers[] = {
    {"_class_name _diffusers_version _name_or_path", ""},
    {0},
};
static const ck_model_setting of_transformers[] = {
    {"architectures model_type eos_token_id", NULL},
    {"_name_or_path _commit_hash transformers_version dtype torch_dtype use_bfloat16 torchscript "
     "_attn_implementation _attn_implementation_autoset attn_implementation",
     ""},
    {"return_dict output_hidden_states output_attentions use_cache chunk_size_feed_forward "
     "gradient_checkpointing tf_legacy_loss tie_word_embeddings tie_encoder_decoder "
     "is_encoder_decoder cross_attention_hidden_size",
     ""},
    {"bos_token_id pad_token_id sep_token_id decoder_start_token_id tokenizer_class prefix "
     "task_specific_params finetuning_task problem_type num_labels id2label label2id",
     ""},
    {"max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty "
     "temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size "
     "encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores "
     "return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values "
     "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens",
     ""},
    {"is_decoder add_cross_attention", "[null, false]"},
    {"pruned_heads", "[null, {}]"},
    {0},
};

static bool has_word(const char *words, const char *word) {
    for (const char *at = words; *at; at += strspn(at, " ")) {
        size_t n = strcspn(at, " ");
        if (n == strlen(word) && memcmp(at, word, n) == 0) return true;
        at += n;
    }
    return false;
}

static const ck_model_setting *find(const ck_model_setting *settings, const char *name) {
    while (settings->names && !has_word(settings->names, name)) settings++;
    return settings->names ? settings : NULL;
}

static ck_status check_setting(const ck_json *doc, const cJSON *node,
                               const ck_model_setting *setting, ck_error *err) {
    if (!setting->accepted || !*setting->accepted) return CK_OK;
    cJSON *accepted = cJSON_Parse(setting->accepted);
    if (!accepted) return ck_fail_memory(err, doc->name);
    bool good = false;
    for (const cJSON *value = accepted->child; value; value = value->next)
        good = good || cJSON_Compare(value, node, true);
    cJSON_Delete(accepted);
    if (good) return CK_OK;
    return ck_json_fail(doc, node, err, "not implemented; implemented is: %s", setting->accepted);
}

static ck_status check_settings(const ck_json *doc, const char *what, const ck_model_setting *own,
                                const ck_model_setting *general, ck_error *err) {
    for (const cJSON *node = doc->root->child; node; node = node->next) {
        const ck_model_setting *s = find(own, node->string);
        if (!s) s = find(general, node->string);
        if (!s)
            return ck_json_fail(doc, node, err,
                                "a setting of %s that is not known; it may make another network of "
                                "it (take it out if it does not)",
                                what);
        CK_TRY(check_setting(doc, node, s, err));
    }
    return CK_OK;
}

ck_status ck_model__check(const ck_json *doc, const char *class_name,
                          const ck_model_setting *settings, ck_error *err) {
    if (!cJSON_IsObject(doc->root)) return ck_json_fail(doc, doc->root, err, "must be an object");
    const char *class_here = NULL;
    CK_TRY(ck_json_text(doc, doc->root, "_class_name", &class_here, err));
    if (!class_here || strcmp(class_here, class_name) != 0)
        return ck_json_fail(doc, cJSON_GetObjectItemCaseSensitive(doc->root, "_class_name"), err,
                            "the class is '%s', not %s", class_here ? class_here : "", class_name);
    return check_settings(doc, class_name, settings, of_diffusers, err);
}

ck_status ck_model__check_text(const ck_json *doc, const char *model_type,
                               const ck_model_setting *settings, ck_error *err) {
    if (!cJSON_IsObject(doc->root)) return ck_json_fail(doc, doc->root, err, "must be an object");
    const char *type = model_type;
    CK_TRY(ck_json_text(doc, doc->root, "model_type", &type, err));
    if (strcmp(type, model_type) != 0)
        return ck_json_fail(doc, cJSON_GetObjectItemCaseSensitive(doc->root, "model_type"), err,
                            "the text encoder is '%s', not %s", type, model_type);
    return check_settings(doc, model_type, settings, of_transformers, err);
}

const cJSON *ck_model__field(const ck_json *doc, const char *name) {
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(doc->root, name);
    return cJSON_IsNull(node) ? NULL : node;
}

ck_status ck_model__whole(const ck_json *doc, const cJSON *node, int64_t low, int64_t high,
                          int64_t *value, ck_error *err) {
    if (!node) return CK_OK;
    double x = cJSON_IsNumber(node) ? node->valuedouble : NAN;
    if (!(x >= (double)low && x <= (double)high) || x != floor(x))
        return ck_json_fail(doc, node, err, "must be a whole number from %lld to %lld",
                            (long long)low, (long long)high);
    *value = (int64_t)x;
    return CK_OK;
}

ck_status ck_model__size(const ck_json *doc, const char *name, int64_t low, int64_t high,
                         int64_t *value, ck_error *err) {
    return ck_model__whole(doc, ck_model__field(doc, name), low, high, value, err);
}

ck_status ck_model__sizes(const ck_json *doc, const char *name, int64_t low, int64_t high, size_t n,
                          int64_t *values, ck_error *err) {
    const cJSON *node = ck_model__field(doc, name);
    if (!node) return CK_OK;
    if (cJSON_IsArray(node) && (size_t)cJSON_GetArraySize(node) != n)
        return ck_json_fail(doc, node, err, "must be one number or a list of %zu", n);
    const cJSON *item = cJSON_IsArray(node) ? node->child : node;
    for (size_t i = 0; i < n; i++) {
        CK_TRY(ck_model__whole(doc, item, low, high, &values[i], err));
        if (cJSON_IsArray(node)) item = item->next;
    }
    return CK_OK;
}

ck_status ck_model__real(const ck_json *doc, const char *name, double low, double high,
                         double *value, ck_error *err) {
    const cJSON *node = ck_model__field(doc, name);
    if (!node) return CK_OK;
    if (!cJSON_IsNumber(node) || !(node->valuedouble >= low && node->valuedouble <= high))
        return ck_json_fail(doc, node, err, "must be a number from %g to %g", low, high);
    *value = node->valuedouble;
    return CK_OK;
}

ck_status ck_model__flag(const ck_json *doc, const char *name, bool *value, ck_error *err) {
    return ck_model__field(doc, name) ? ck_json_bool(doc, doc->root, name, value, err) : CK_OK;
}

ck_status ck_model__choice(const ck_json *doc, const cJSON *node, const char *const *names,
                           int *choice, ck_error *err) {
    if (!node) return CK_OK;
    for (int i = 0; names[i]; i++)
        if (cJSON_IsString(node) && strcmp(node->valuestring, names[i]) == 0) {
            *choice = i;
            return CK_OK;
        }
    char known[256] = "";
    for (int i = 0; names[i]; i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s\"%s\"", i ? ", " : "", names[i]);
    }
    return ck_json_fail(doc, node, err, "not implemented; implemented is: %s", known);
}

ck_status ck_model__write(const char *from, const ck_model_change *changes, size_t count,
                          const char *to, ck_error *err) {
    ck_json doc = {0};
    ck_status s = ck_json_load(from, &doc, err);
    bool memory = true;
    for (size_t i = 0; i < count; i++) {
        cJSON_DeleteItemFromObjectCaseSensitive(doc.root, changes[i].name);
        if (!changes[i].value || !doc.root ||
            !cJSON_AddItemToObject(doc.root, changes[i].name, changes[i].value)) {
            cJSON_Delete(changes[i].value);
            memory = false;
        }
    }
    char *text = s == CK_OK && memory ? cJSON_Print(doc.root) : NULL;
    if (s == CK_OK)
        s = text ? ck_write_file(to, text, strlen(text), true, err) : ck_fail_memory(err, to);
    free(text);
    ck_json_free(&doc);
    return s;
}
