/* ckdistill info: what a model takes, for sampling and for training. */
#include "distill/engine/cost.h"
#include "distill/models/model_network.h"
#include "distill/tools.h"
#include "io/os.h"
#include "io/progress.h"

#include <stdlib.h>
#include <time.h>

static const char *folder, *device = "cpu";
static bool json, checkpointing;

static const ck_option options[] = {
    {.name = "model",
     .letter = 'm',
     .argument = "MODEL",
     .type = CK_OPT_TEXT,
     .value = &folder,
     .help =
         "a folder as diffusers lays it out (Stable Diffusion 1, 2, XL, 3, FLUX), or one file of "
         "such a model, of transformers without the rest; weights need not be there"},
    {.name = "checkpointing",
     .type = CK_OPT_FLAG,
     .value = &checkpointing,
     .help = "training computes activations twice instead of keeping them"},
    CK_OPTION_DEVICE(device, "what would compute (default cpu)"),
    {.name = "json", .type = CK_OPT_FLAG, .value = &json, .help = "as one JSON document"},
    {0},
};

static const ck_command command = {
    .name = "ckdistill info",
    .summary = "what a model takes: parameters, memory and time, by batch size",
    .synopsis = "--model MODEL [--checkpointing]",
    .details = "Memory is what the plans of the graphs say, which is what will be allocated: "
               "sampling encodes text, asks the network and decodes the pictures one after the "
               "other, and the most of the three counts; training adds gradients, two moments and "
               "an average of all weights. Time is an "
               "estimate: the operations counted, over what this machine does of a large matrix "
               "product.",
    .options = options,
    .examples = "$ ckdistill info --model recipes/models/base\n"
                "  whether it fits, before it is tried",
};

typedef struct need {
    size_t batch;
    size_t decoder, sampling, training; /* bytes */
    double forward, step;               /* operations */
} need;

static ck_status plan_graph(const ck_backend *b, const ck_graph *g, const ck_node *outputs,
                            size_t n, size_t *bytes, double *operations, ck_error *err) {
    ck_exec *e;
    CK_TRY(ck_exec_new(b, g, outputs, n, &e, err));
    *bytes = ck_exec_peak(e) + ck_exec_weights(e);
    *operations = ck_exec_operations(e);
    ck_exec_free(e);
    return CK_OK;
}

static ck_status measure_graph(const ck_backend *b, const ck_model *m, ck_graph *g, need *n,
                               ck_error *err) {
    ck_model_inputs in;
    size_t side = ck_model_side(m);
    ck_node out = ck_model_network(g, m, n->batch, side, side, &in);
    CK_TRY(ck_graph_check(g, err));
    size_t forward = g->count, count = ck_params_count(m->unet), at = 0;
    ck_params_freeze(m->unet, true);
    CK_TRY(plan_graph(b, g, &out, 1, &n->sampling, &n->forward, err));
    ck_params_freeze(m->unet, false);
    ck_node *weights = ck_alloc_array(count, sizeof *weights);
    ck_node *outputs = ck_alloc_array(count + 1, sizeof *outputs);
    ck_status s = weights && outputs ? CK_OK : ck_fail_memory(err, "a graph");
    for (size_t i = 0; i < forward && s == CK_OK; i++)
        if (g->nodes[i].op == CK_OP_PARAM && ck_graph_trains(g, (ck_node)i))
            weights[at++] = (ck_node)i;
    ck_node loss = ck_mean(g, ck_mul(g, out, out));
    if (s == CK_OK) s = ck_gradients(g, loss, weights, at, outputs + 1, err);
    if (s == CK_OK) {
        outputs[0] = loss;
        s = plan_graph(b, g, outputs, at + 1, &n->training, &n->step, err);
    }
    free(weights);
    free(outputs);
    return s;
}

static size_t parameters(const ck_model *m) {
    size_t n = 0;
    for (size_t i = 0; i < ck_params_count(m->unet); i++) n += ck_params_elements(m->unet, i);
    return n;
}

/* text: bytes that encoding texts takes. */
static ck_status measure(const ck_backend *b, const ck_model *m, size_t text, need *n,
                         ck_error *err) {
    size_t side = ck_model_side(m);
    ck_graph *g = ck_graph_new();
    if (!g) return ck_fail_memory(err, "a graph");
    ck_status s = measure_graph(b, m, g, n, err);
    ck_graph_free(g);
    if (s == CK_OK) s = ck_model_decode_memory(m, b, n->batch, side, side, &n->decoder, err);
    if (n->sampling < n->decoder) n->sampling = n->decoder;
    if (n->sampling < text) n->sampling = text;
    n->training += 3 * sizeof(float) * parameters(m);
    return s;
}

enum { BATCHES = 5 };

static void print(const need *needs, size_t weights, size_t text, double speed) {
    char a[32], t[32];
    printf("network        %.1f million parameters\n", (double)weights / 1e6);
    if (text) printf("text encoders  %s, before the network\n", ck_format_bytes(a, sizeof a, text));
    printf("decoder        %s for one, after it\n", ck_format_bytes(a, sizeof a, needs[0].decoder));
    printf("this machine   %.0f GFLOP/s\n\n", speed / 1e9);
    printf("batch    sampling memory   seconds a pass    training memory   seconds a step\n");
    for (int i = 0; i < BATCHES; i++)
        printf("%5zu    %15s   %14.2f    %15s   %14.2f\n", needs[i].batch,
               ck_format_bytes(a, sizeof a, needs[i].sampling), needs[i].forward / speed,
               ck_format_bytes(t, sizeof t, needs[i].training), needs[i].step / speed);
}

static ck_status print_json(const need *needs, size_t weights, size_t text, double speed,
                            ck_error *err) {
    cJSON *root = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(root, "batches");
    bool ok = list && cJSON_AddNumberToObject(root, "parameters", (double)weights) &&
              cJSON_AddNumberToObject(root, "text_bytes", (double)text) &&
              cJSON_AddNumberToObject(root, "flops_per_second", speed);
    for (int i = 0; i < BATCHES && ok; i++) {
        cJSON *o = ck_tool_add_object(list);
        ok = o && cJSON_AddNumberToObject(o, "batch", (double)needs[i].batch) &&
             cJSON_AddNumberToObject(o, "decoder_bytes", (double)needs[i].decoder) &&
             cJSON_AddNumberToObject(o, "sampling_bytes", (double)needs[i].sampling) &&
             cJSON_AddNumberToObject(o, "training_bytes", (double)needs[i].training) &&
             cJSON_AddNumberToObject(o, "forward_flop", needs[i].forward) &&
             cJSON_AddNumberToObject(o, "step_flop", needs[i].step);
    }
    return ck_tool_print_json(root, ok, err);
}

static ck_status inform(ck_model *m, ck_error *err) {
    const ck_backend *b;
    need needs[BATCHES] = {0};
    double speed = 0;
    size_t text = 0;
    CK_TRY(ck_backend_open(device, &b, err));
    CK_TRY(ck_model_text_memory(m, b, &text, err));
    ck_model_checkpoint(m, checkpointing);
    for (int i = 0; i < BATCHES; i++) {
        needs[i].batch = (size_t)1 << (2 * i);
        CK_TRY(measure(b, m, text, &needs[i], err));
    }
    CK_TRY(ck_cost_speed(b, &speed, err));
    if (json) return print_json(needs, parameters(m), text, speed, err);
    print(needs, parameters(m), text, speed);
    return CK_OK;
}

static ck_status run(const char *const *operands, size_t count, ck_error *err) {
    (void)operands, (void)count;
    ck_model m;
    if (!folder) return ck_fail(err, CK_USAGE, "--model MODEL is missing: a folder or a file");
    CK_TRY(ck_model_plan(folder, NULL, &m, err));
    ck_status s = inform(&m, err);
    ck_model_close(&m);
    return s;
}

const ck_tool ck_tool_info = {
    .command = &command, .min_operands = 0, .max_operands = 0, .run = run};
