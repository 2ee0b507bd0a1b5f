/* Runs one network of distill/ on given inputs, for check_models.py:
 *
 *   run_model KIND CONFIG WEIGHTS INPUTS OUTPUTS [BACKEND]
 *
 * INPUTS is a safetensors file whose tensors (F32, I32) are the network's inputs by name, images
 * with their channels last. OUTPUTS is one too. With an input "target", the gradients of the mean
 * square error of the first output come along, as "grad." and the weight's name, in the engine's
 * layout.
 */
#include "distill/engine/backend.h"
#include "distill/models/clip_text.h"
#include "distill/models/flux.h"
#include "distill/models/mmdit.h"
#include "distill/models/unet.h"
#include "distill/models/vae.h"
#include "io/os.h"
#include "io/view.h"
#include "merge/save.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 4096 };

typedef struct job {
    ck_graph *g;
    ck_params *params;
    const ck_reader *inputs;
    struct {
        char name[160];
        ck_node node;
    } outputs[MOST];
    size_t count;
} job;

/* The input of this name; CK_NONE if there is none. */
static ck_node input(const job *j, const char *name) {
    const ck_tensor *t = ck_reader_find(j->inputs, name);
    if (!t) return CK_NONE;
    for (size_t i = 0; i < j->g->count; i++)
        if (j->g->nodes[i].op == CK_OP_INPUT && strcmp(j->g->nodes[i].name, name) == 0)
            return (ck_node)i;
    ck_shape shape = {.rank = (int)t->rank};
    for (size_t i = 0; i < t->rank; i++) shape.d[i] = (int64_t)t->shape[i];
    return ck_input(j->g, name, t->dtype, shape);
}

static void output(job *j, const char *name, ck_node node) {
    snprintf(j->outputs[j->count].name, sizeof j->outputs->name, "%s", name);
    j->outputs[j->count++].node = node;
}

/* ---- Networks ---- */

static ck_status build_unet(job *j, const char *config, ck_error *err) {
    ck_unet_config c;
    CK_TRY(ck_unet_read(config, &c, err));
    ck_unet_inputs in = {.x = input(j, "x"),
                         .time = input(j, "time"),
                         .context = input(j, "context"),
                         .guidance = input(j, "guidance"),
                         .pooled = input(j, "pooled"),
                         .sizes = input(j, "sizes")};
    output(j, "out", ck_unet(j->g, j->params, &c, &in));
    return CK_OK;
}

static ck_status build_clip(job *j, const char *config, ck_error *err) {
    ck_clip_config c;
    CK_TRY(ck_clip_read(config, &c, err));
    ck_clip_text t = ck_clip(j->g, j->params, &c, input(j, "ids"), input(j, "ends"));
    output(j, "pooled", t.pooled);
    output(j, "last", t.last);
    output(j, "penultimate", t.penultimate);
    return CK_OK;
}

static ck_status build_encoder(job *j, const char *config, ck_error *err) {
    ck_vae_config c;
    CK_TRY(ck_vae_read(config, &c, err));
    ck_vae_moments m = ck_vae_encode(j->g, j->params, &c, input(j, "x"));
    output(j, "mean", m.mean);
    output(j, "logvar", m.logvar);
    return CK_OK;
}

static ck_status build_decoder(job *j, const char *config, ck_error *err) {
    ck_vae_config c;
    CK_TRY(ck_vae_read(config, &c, err));
    output(j, "image", ck_vae_decode(j->g, j->params, &c, input(j, "x")));
    return CK_OK;
}

static ck_status build_mmdit(job *j, const char *config, ck_error *err) {
    ck_mmdit_config c;
    CK_TRY(ck_mmdit_read(config, &c, err));
    ck_mmdit_inputs in = {.x = input(j, "x"),
                          .time = input(j, "time"),
                          .context = input(j, "context"),
                          .pooled = input(j, "pooled")};
    output(j, "out", ck_mmdit(j->g, j->params, &c, &in));
    return CK_OK;
}

static ck_status build_flux(job *j, const char *config, ck_error *err) {
    ck_flux_config c;
    CK_TRY(ck_flux_read(config, &c, err));
    ck_flux_inputs in = {.x = input(j, "x"),
                         .time = input(j, "time"),
                         .context = input(j, "context"),
                         .pooled = input(j, "pooled"),
                         .guidance = input(j, "guidance")};
    output(j, "out", ck_flux(j->g, j->params, &c, &in));
    return CK_OK;
}

static const struct {
    const char *name;
    ck_status (*build)(job *j, const char *config, ck_error *err);
} kinds[] = {
    {"unet", build_unet},           {"clip", build_clip},   {"vae_encoder", build_encoder},
    {"vae_decoder", build_decoder}, {"mmdit", build_mmdit}, {"flux", build_flux},
};

/* ---- Running ---- */

static ck_status add_gradients(job *j, ck_error *err) {
    ck_node target = input(j, "target"), weights[MOST], grads[MOST];
    if (target == CK_NONE) return CK_OK;
    CK_TRY(ck_graph_check(j->g, err));
    ck_node off = ck_sub(j->g, j->outputs[0].node, target);
    ck_node loss = ck_mean(j->g, ck_mul(j->g, off, off));
    size_t n = 0;
    for (size_t i = 0; i < j->g->count && n < MOST; i++)
        if (j->g->nodes[i].op == CK_OP_PARAM && strcmp(j->g->nodes[i].name, "pos_embed.pos_embed"))
            weights[n++] = (ck_node)i;
    CK_TRY(ck_gradients(j->g, loss, weights, n, grads, err));
    for (size_t i = 0; i < n; i++) {
        char name[160];
        snprintf(name, sizeof name, "grad.%s", j->g->nodes[weights[i]].name);
        output(j, name, grads[i]);
    }
    return CK_OK;
}

static ck_status write_inputs(const job *j, ck_exec *e, ck_error *err) {
    for (size_t i = 0; i < j->g->count; i++) {
        if (j->g->nodes[i].op != CK_OP_INPUT) continue;
        const ck_tensor *t = ck_reader_find(j->inputs, j->g->nodes[i].name);
        void *data = ck_alloc(t->nbytes);
        if (!data) return ck_fail_memory(err, t->name);
        ck_status s = ck_reader_read(j->inputs, t, 0, data, t->nbytes, err);
        if (s == CK_OK) s = ck_exec_write(e, (ck_node)i, data, t->elements, err);
        free(data);
        CK_TRY(s);
    }
    return CK_OK;
}

static ck_status add_output(const job *j, size_t i, const ck_exec *e, ck_reader *view,
                            ck_error *err) {
    ck_shape shape = ck_node_shape(j->g, j->outputs[i].node);
    size_t n = (size_t)ck_shape_count(&shape);
    uint64_t dims[CK_MAX_DIMS];
    for (int k = 0; k < shape.rank; k++) dims[k] = (uint64_t)shape.d[k];
    float *data = ck_alloc_array(n, sizeof *data);
    if (!data) return ck_fail_memory(err, j->outputs[i].name);
    ck_status s = ck_exec_read(e, j->outputs[i].node, data, n, err);
    if (s == CK_OK)
        s = ck_view_constant(view, j->outputs[i].name, CK_F32, (size_t)shape.rank, dims, data, err);
    free(data);
    return s;
}

static ck_status save(const job *j, const ck_exec *e, const char *path, ck_error *err) {
    ck_reader *view;
    ck_save_options options = {.dtype = CK_DTYPE_COUNT, .replace = true, .quiet = true};
    ck_save_result result;
    CK_TRY(ck_view_new("outputs", &view, err));
    ck_status s = CK_OK;
    for (size_t i = 0; i < j->count && s == CK_OK; i++) s = add_output(j, i, e, view, err);
    if (s == CK_OK) s = ck_view_finish(view, err);
    if (s == CK_OK) s = ck_save(view, path, &options, &result, err);
    ck_reader_close(view);
    return s;
}

static ck_status run(job *j, const char *backend, const char *path, ck_error *err) {
    const ck_backend *b;
    ck_exec *e;
    ck_node nodes[MOST];
    CK_TRY(add_gradients(j, err));
    CK_TRY(ck_graph_check(j->g, err));
    for (size_t i = 0; i < j->count; i++) nodes[i] = j->outputs[i].node;
    CK_TRY(ck_backend_open(backend, &b, err));
    CK_TRY(ck_exec_new(b, j->g, nodes, j->count, &e, err));
    ck_status s = ck_exec_allocate(e, 0, err);
    if (s == CK_OK) s = write_inputs(j, e, err);
    if (s == CK_OK) s = ck_exec_run(e, err);
    if (s == CK_OK) s = save(j, e, path, err);
    ck_exec_free(e);
    return s;
}

static ck_status run_kind(const char *kind, char **paths, const char *backend, ck_error *err) {
    static job j;
    ck_reader *inputs;
    CK_TRY(ck_params_open(paths[1], "", &j.params, err));
    CK_TRY(ck_reader_open(paths[2], &inputs, err));
    j.inputs = inputs;
    j.g = ck_graph_new();
    ck_status s = j.g ? CK_OK : ck_fail_memory(err, "graph");
    size_t k = 0;
    while (k < sizeof kinds / sizeof *kinds && strcmp(kinds[k].name, kind) != 0) k++;
    if (k == sizeof kinds / sizeof *kinds) s = ck_fail(err, CK_USAGE, "no kind '%s'", kind);
    if (s == CK_OK) s = kinds[k].build(&j, paths[0], err);
    if (s == CK_OK) s = run(&j, backend, paths[3], err);
    ck_graph_free(j.g);
    ck_reader_close(inputs);
    ck_params_free(j.params);
    return s;
}

int main(int argc, char **argv) {
    ck_error err;
    if (argc < 6) {
        fprintf(stderr, "usage: run_model KIND CONFIG WEIGHTS INPUTS OUTPUTS [BACKEND]\n");
        return 2;
    }
    if (run_kind(argv[1], argv + 2, argc > 6 ? argv[6] : "cpu", &err) == CK_OK) return 0;
    fprintf(stderr, "run_model: %s\n", err.message);
    return 1;
}
