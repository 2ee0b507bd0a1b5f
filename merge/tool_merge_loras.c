/* cktool merge-loras: several LoRAs as one, or one at another rank. */
#include "io/os.h"
#include "io/scaled.h"
#include "kernels/kernels.h"
#include "merge/lora_output.h"
#include "merge/lora_sites.h"
#include "merge/recipe.h"
#include "merge/tool.h"

#include <stdlib.h>
#include <string.h>

static ck_lora_output output;
static const char *model_path, *unmatched;

static const ck_option options[] = {
    CK_LORA_OPTIONS(output),
    {.name = "model",
     .argument = "MODEL",
     .type = CK_OPT_TEXT,
     .value = &model_path,
     .help = "the model that they are for: needed where the LoRAs name their layers differently, "
             "and for DoRA"},
    {.name = "unmatched",
     .argument = "P",
     .type = CK_OPT_CHOICE,
     .value = &unmatched,
     .choices = CK_UNMATCHED_WORDS,
     .help = "with --model: layers that it lacks: error (default) or skip"},
    {0},
};

static const ck_command command = {
    .name = "cktool merge-loras",
    .summary = "merge LoRAs into one, or change the rank of one",
    .synopsis = "LORA[:STRENGTH]... -o OUT [--rank N] [--dynamic KIND=X] [--model MODEL]",
    .details =
        "The changes that the LoRAs make (alpha / rank times up down; also LoHa, LoKr, full) are "
        "added, each times its strength, and the sum is brought down to its largest singular "
        "values. Without --rank it is kept whole: the ranks add up. (Adding the factors "
        "themselves, as some tools do, makes products of one LoRA's up with the other's down, and "
        "squares the strengths.) With one LoRA this changes its rank.\n"
        "With --model the layers are found as `ckmerge --lora` finds them, and the result has "
        "kohya's names; without, layers of the same name are added, and the result has the names "
        "of the first LoRA.",
    .options = options,
    .examples = "$ cktool merge-loras style.safetensors:0.8 hands.safetensors -o both.safetensors "
                "--rank 64\n"
                "$ cktool merge-loras big.safetensors -o small.safetensors --rank 64 --dynamic "
                "fro=0.97\n"
                "  the smallest ranks that keep 97% of the change, 64 at most",
    .files = true,
};

/* ---- The LoRAs ---- */

typedef struct source {
    char *path;
    double strength;
    ck_reader *file, *changes; /* changes: with a model */
    ck_lora *lora;
} source;

/* Layer `layer` of a source, one of those that are added to a layer of the result. */
typedef struct share {
    const source *from;
    size_t layer;
    const ck_lora_layer *shown;
} share;

typedef struct merging {
    source sources[CK_MAX_MODELS];
    size_t source_count;
    ck_reader *model, *plain;
    ck_lora_layer *layers; /* of the result */
    size_t count;
    /* With a model: where each layer is in it. */
    ck_lora_sites sites;
    size_t *site_of;
    /* Without: what each layer is made of. */
    share *shares;
    size_t share_count;
    size_t *first_share; /* of each layer, and the number of all */
} merging;

static ck_status open_source(const char *text, source *s, ck_error *err) {
    CK_TRY(ck_lora_argument(text, &s->path, &s->strength, err));
    CK_TRY(ck_reader_open(s->path, &s->file, err));
    if (!ck_lora_is(s->file))
        return ck_fail(err, CK_INPUT, "%s is no LoRA: its tensors are not named as a LoRA's are",
                       s->path);
    return ck_lora_open(s->file, &s->lora, err);
}

/* The rank that holds a layer's whole change. */
static uint64_t whole_rank(const ck_lora_layer *l) {
    uint64_t most = l->rows < l->columns ? l->rows : l->columns;
    uint64_t rank = l->kind == CK_LORA_PRODUCT    ? l->rank
                    : l->kind == CK_LORA_HADAMARD ? l->rank * l->rank
                                                  : most;
    return rank < most ? rank : most;
}

/* ---- By names ---- */

static bool same_letter(char a, char b) {
    return a == b || ((a == '.' || a == '_') && (b == '.' || b == '_'));
}

/* By name, '.' and '_' being the same; then weights before biases. */
static int by_name(const share *x, const share *y) {
    const char *a = x->shown->name, *b = y->shown->name;
    while (*a && same_letter(*a, *b)) a++, b++;
    char p = *a == '.' ? '_' : *a, q = *b == '.' ? '_' : *b;
    if (p != q) return (unsigned char)p < (unsigned char)q ? -1 : 1;
    return (int)x->shown->bias - (int)y->shown->bias;
}

static int by_name_and_source(const void *a, const void *b) {
    const share *x = a, *y = b;
    int order = by_name(x, y);
    return order ? order : (x->from > y->from) - (x->from < y->from);
}

static ck_status collect_shares(merging *m, ck_error *err) {
    size_t total = 0;
    for (size_t i = 0; i < m->source_count; i++) total += ck_lora_count(m->sources[i].lora);
    m->shares = ck_alloc_array(total, sizeof *m->shares);
    m->layers = ck_alloc_array(total, sizeof *m->layers);
    m->first_share = ck_alloc_array(total + 1, sizeof *m->first_share);
    if (!m->shares || !m->layers || !m->first_share) return ck_fail_memory(err, output.path);
    for (size_t i = 0; i < m->source_count; i++)
        for (size_t k = 0; k < ck_lora_count(m->sources[i].lora); k++) {
            const source *s = &m->sources[i];
            const ck_lora_layer *l = ck_lora_layer_of(s->lora, k);
            if (l->magnitude)
                return ck_fail(err, CK_INPUT,
                               "%s: layer '%s' is a DoRA, whose change depends on the model's "
                               "weight: give the model with --model",
                               s->path, l->name);
            m->shares[m->share_count++] = (share){s, k, l};
        }
    qsort(m->shares, total, sizeof *m->shares, by_name_and_source);
    return CK_OK;
}

/* A layer of the result, from shares [first, end). */
static ck_status add_layer(merging *m, size_t first, size_t end, ck_error *err) {
    ck_lora_layer *l = &m->layers[m->count];
    *l = *m->shares[first].shown;
    uint64_t rank = 0;
    for (size_t i = first; i < end; i++) {
        const share *s = &m->shares[i];
        if (s->shown->rows != l->rows || s->shown->columns != l->columns)
            return ck_fail(err, CK_INPUT,
                           "layer '%s' is %llu by %llu in %s, and %llu by %llu in %s: these LoRAs "
                           "are for different models",
                           l->name, (unsigned long long)l->rows, (unsigned long long)l->columns,
                           m->shares[first].from->path, (unsigned long long)s->shown->rows,
                           (unsigned long long)s->shown->columns, s->from->path);
        if (s->shown->dimensions > l->dimensions) { /* the other one is flattened */
            l->dimensions = s->shown->dimensions;
            memcpy(l->shape, s->shown->shape, sizeof l->shape);
        }
        rank += whole_rank(s->shown);
    }
    l->rank = rank;
    m->first_share[m->count++] = first;
    m->first_share[m->count] = end;
    return CK_OK;
}

/* Every LoRA must have a layer in common with those before it, or names differ. */
static ck_status check_names(const merging *m, ck_error *err) {
    for (size_t i = 1; i < m->source_count; i++) {
        const source *s = &m->sources[i];
        bool common = false;
        for (size_t k = 0; k + 1 < m->share_count && !common; k++) {
            const share *a = &m->shares[k], *b = &m->shares[k + 1];
            common = (a->from == s || b->from == s) && by_name(a, b) == 0;
        }
        if (!common)
            return ck_fail(err, CK_INPUT,
                           "%s and %s have no layer of the same name ('%s', '%s'); give the model "
                           "that they are for with --model",
                           m->sources[0].path, s->path,
                           ck_lora_layer_of(m->sources[0].lora, 0)->name,
                           ck_lora_layer_of(s->lora, 0)->name);
    }
    return CK_OK;
}

static ck_status group_by_names(merging *m, ck_error *err) {
    CK_TRY(collect_shares(m, err));
    CK_TRY(check_names(m, err));
    for (size_t first = 0, end; first < m->share_count; first = end) {
        end = first + 1;
        while (end < m->share_count && by_name(&m->shares[first], &m->shares[end]) == 0) end++;
        CK_TRY(add_layer(m, first, end, err));
    }
    return CK_OK;
}

enum { BAND = 1 << 16 }; /* elements at a time */

static ck_status add_share(const share *s, float *sum, float *band, ck_error *err) {
    const ck_kernels *k = ck_kernels_best();
    uint64_t columns = s->shown->columns, rows = BAND / columns ? BAND / columns : 1;
    for (uint64_t row = 0; row < s->shown->rows; row += rows) {
        uint64_t n = s->shown->rows - row < rows ? s->shown->rows - row : rows;
        CK_TRY(
            ck_lora_rows(s->from->lora, s->layer, row, n, 0, columns, band, (size_t)columns, err));
        k->accumulate(sum + row * columns, band, (float)s->from->strength, (size_t)(n * columns));
    }
    return CK_OK;
}

static ck_status read_shares(void *context, size_t i, float *change, ck_error *err) {
    const merging *m = context;
    uint64_t columns = m->layers[i].columns;
    float *band = ck_alloc_array(columns > BAND ? (size_t)columns : BAND, sizeof *band);
    ck_status status = band ? CK_OK : ck_fail_memory(err, m->layers[i].name);
    for (size_t k = m->first_share[i]; k < m->first_share[i + 1] && status == CK_OK; k++)
        status = add_share(&m->shares[k], change, band, err);
    free(band);
    return status;
}

/* ---- By the model ---- */

static bool is_touched(const merging *m, size_t site) {
    for (size_t i = 0; i < m->source_count; i++)
        if (ck_lora_sites_touches(&m->sites, site, m->sources[i].changes)) return true;
    return false;
}

/* A rank that holds every layer of all LoRAs. */
static uint64_t rank_of_all(const merging *m) {
    uint64_t sum = 0;
    for (size_t i = 0; i < m->source_count; i++) {
        uint64_t most = 0;
        for (size_t k = 0; k < ck_lora_count(m->sources[i].lora); k++) {
            const ck_lora_layer *l = ck_lora_layer_of(m->sources[i].lora, k);
            /* The magnitudes of DoRA leave no rank. */
            uint64_t rank = l->magnitude ? UINT32_MAX : whole_rank(l);
            if (rank > most) most = rank;
        }
        sum += most;
    }
    return sum;
}

static ck_status group_by_model(merging *m, ck_error *err) {
    size_t scaled;
    CK_TRY(ck_reader_open(model_path, &m->model, err));
    CK_TRY(ck_scaled_open(m->model, &m->plain, &scaled, err));
    const ck_reader *model = m->plain ? m->plain : m->model;
    ck_unmatched policy =
        unmatched ? (ck_unmatched)ck_word_index(CK_UNMATCHED_WORDS, unmatched) : CK_UNMATCHED_ERROR;
    for (size_t i = 0; i < m->source_count; i++)
        CK_TRY(
            ck_lora_changes(m->sources[i].file, model, policy, &m->sources[i].changes, NULL, err));
    CK_TRY(ck_lora_sites_of(model, &m->sites, err));
    m->layers = ck_alloc_array(m->sites.count, sizeof *m->layers);
    m->site_of = ck_alloc_array(m->sites.count, sizeof *m->site_of);
    if (!m->layers || !m->site_of) return ck_fail_memory(err, output.path);
    uint64_t rank = rank_of_all(m);
    for (size_t i = 0; i < m->sites.count; i++) {
        if (!is_touched(m, i)) continue;
        m->layers[m->count] = m->sites.layers[i];
        m->layers[m->count].rank = rank;
        m->site_of[m->count++] = i;
    }
    return CK_OK;
}

static ck_status read_sites(void *context, size_t i, float *change, ck_error *err) {
    const merging *m = context;
    for (size_t s = 0; s < m->source_count; s++)
        CK_TRY(ck_lora_sites_add(&m->sites, m->site_of[i], m->sources[s].changes,
                                 m->sources[s].strength, change, err));
    return CK_OK;
}

/* ---- Both ---- */

static ck_status merge(merging *m, const char *const *texts, size_t count,
                       ck_lora_make_options *make, ck_error *err) {
    if (count > CK_MAX_MODELS) return ck_fail(err, CK_USAGE, "more than %d LoRAs", CK_MAX_MODELS);
    for (; m->source_count < count; m->source_count++)
        if (open_source(texts[m->source_count], &m->sources[m->source_count], err) != CK_OK) {
            m->source_count++;
            return err->status;
        }
    if (!model_path) {
        CK_TRY(group_by_names(m, err));
        make->peft = m->count && strchr(m->layers[0].name, '.') != NULL;
        return ck_lora_output_write(&output, make, m->layers, m->count, read_shares, m, NULL,
                                    m->sources[0].file, err);
    }
    CK_TRY(group_by_model(m, err));
    ck_anatomy a;
    CK_TRY(ck_anatomy_of(m->model, &a, err));
    ck_status status = ck_lora_output_write(&output, make, m->layers, m->count, read_sites, m,
                                            a.architecture, NULL, err);
    ck_anatomy_free(&a);
    return status;
}

static ck_status run(const char *const *operands, size_t count, ck_error *err) {
    ck_lora_make_options make;
    CK_TRY(ck_lora_output_options(&output, &make, err));
    merging *m = ck_alloc(sizeof *m);
    if (!m) return ck_fail_memory(err, output.path);
    ck_status status = merge(m, operands, count, &make, err);
    for (size_t i = 0; i < m->source_count; i++) {
        ck_reader_close(m->sources[i].changes);
        ck_lora_close(m->sources[i].lora);
        ck_reader_close(m->sources[i].file);
        free(m->sources[i].path);
    }
    ck_lora_sites_free(&m->sites);
    ck_reader_close(m->plain);
    ck_reader_close(m->model);
    free(m->layers);
    free(m->site_of);
    free(m->shares);
    free(m->first_share);
    free(m);
    return status;
}

const ck_tool ck_tool_merge_loras = {.command = &command, .min_operands = 1, .run = run};
