/* LoRA adapters, see adapter.h. */
#include "distill/models/adapter.h"

#include "distill/models/export.h"
#include "io/os.h"
#include "io/view.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

static const char *const usual[] = {"*.to_q",
                                    "*.to_k",
                                    "*.to_v",
                                    "*.to_out.0",
                                    "*.proj_in",
                                    "*.proj_out",
                                    "*.ff.net.0.proj",
                                    "*.ff.net.2",
                                    "*.conv1",
                                    "*.conv2",
                                    "*.conv_shortcut",
                                    "*.downsamplers.0.conv",
                                    "*.upsamplers.0.conv",
                                    "*.time_emb_proj",
                                    "*.add_q_proj",
                                    "*.add_k_proj",
                                    "*.add_v_proj",
                                    "*.to_add_out",
                                    "*.ff_context.net.0.proj",
                                    "*.ff_context.net.2",
                                    "*.proj_mlp"};

const char *const *ck_adapter_targets(size_t *count) {
    *count = sizeof usual / sizeof *usual;
    return usual;
}

void ck_adapter_use(ck_graph *g, const ck_adapting *adapting) {
    g->adapting = adapting;
}

ck_params *ck_adapter_owner(const ck_graph *g, ck_params *base, const char *name) {
    bool own =
        g->adapting && !ck_params_has(base, name) && ck_params_has(g->adapting->factors, name);
    return own ? g->adapting->factors : base;
}

static bool is_target(const ck_adapter *a, const char *layer) {
    for (size_t i = 0; i < a->target_count; i++)
        if (fnmatch(a->targets[i], layer, 0) == 0) return true;
    return false;
}

/* ---- In the graph ---- */

/* "lora_unet_down_blocks_0_..." */
static void name_factor(const char *layer, const char *factor, char name[256]) {
    size_t start = (size_t)snprintf(name, 256, "lora_unet_%s", layer);
    for (char *p = name; *p; p++)
        if (*p == '.') *p = '_';
    if (start < 256) snprintf(name + start, 256 - start, ".%s.weight", factor);
}

/* A factor as a node; `zero` says how it begins. */
static ck_node factor(ck_graph *g, const char *layer, const char *which, bool zero,
                      ck_shape shape) {
    ck_params *factors = g->adapting->factors;
    char name[256];
    name_factor(layer, which, name);
    if (zero && g->error.status == CK_OK && !ck_params_has(factors, name))
        ck_params_add(factors, name, shape.rank, shape.d, &g->error);
    return ck_param(g, factors, name, shape);
}

/* Whether the layer's weight has four dimensions in files, of which the engine may know two. */
static bool is_convolution(const ck_params *base, const char *layer) {
    char name[256];
    snprintf(name, sizeof name, "%s.weight", layer);
    const ck_tensor *t = ck_params_tensor(base, name);
    return t && t->rank == 4;
}

static ck_node matrix(ck_graph *g, const char *layer, const char *which, bool zero, bool conv,
                      int64_t out, int64_t in) {
    if (!conv) return factor(g, layer, which, zero, CK_SHAPE(out, in));
    ck_node w = factor(g, layer, which, zero, CK_SHAPE(out, 1, 1, in));
    return ck_reshape(g, w, CK_SHAPE(out, in));
}

ck_node ck_adapter_add(ck_graph *g, const char *layer, ck_node x, ck_node y, ck_window window) {
    if (!g->adapting || y == CK_NONE || !is_target(g->adapting->adapter, layer)) return y;
    const ck_adapter *a = g->adapting->adapter;
    ck_shape from = ck_node_shape(g, x), to = ck_node_shape(g, y);
    int64_t in = from.d[from.rank - 1], out = to.d[to.rank - 1], rank = (int64_t)a->rank;
    ck_node h;
    if (window.kernel == 1 && window.stride == 1) {
        bool conv = is_convolution(a->base, layer);
        h = ck_linear(g, x, matrix(g, layer, "lora_down", false, conv, rank, in), CK_NONE);
        h = ck_affine(g, h, a->alpha / (double)a->rank, 0);
        h = ck_linear(g, h, matrix(g, layer, "lora_up", true, conv, out, rank), CK_NONE);
    } else {
        ck_shape shape = CK_SHAPE(rank, window.kernel, window.kernel, in);
        ck_node down = factor(g, layer, "lora_down", false, shape);
        h = ck_conv(g, x, down, CK_NONE, window.stride, window.pad);
        h = ck_affine(g, h, a->alpha / (double)a->rank, 0);
        h = ck_linear(g, h, matrix(g, layer, "lora_up", true, true, out, rank), CK_NONE);
    }
    return ck_add(g, y, h);
}

/* ---- As a file ---- */

static ck_status add_alphas(ck_reader *view, const ck_adapter *a, const ck_params *factors,
                            ck_error *err) {
    static const char end[] = ".lora_down.weight";
    float alpha = (float)a->alpha;
    for (size_t i = 0; i < ck_params_count(factors); i++) {
        const char *name = ck_params_name(factors, i);
        size_t n = strlen(name) - strlen(end);
        if (strcmp(name + n, end) != 0) continue;
        char full[256];
        snprintf(full, sizeof full, "%.*s.alpha", (int)n, name);
        CK_TRY(ck_view_constant(view, full, CK_F32, 0, NULL, &alpha, err));
    }
    return CK_OK;
}

ck_status ck_adapter_describe(ck_reader *view, size_t rank, double alpha, ck_error *err) {
    char dim[32], scale[32];
    snprintf(dim, sizeof dim, "%zu", rank);
    snprintf(scale, sizeof scale, "%g", alpha);
    CK_TRY(ck_view_set_metadata(view, "ss_network_module", "networks.lora", err));
    CK_TRY(ck_view_set_metadata(view, "ss_network_dim", dim, err));
    return ck_view_set_metadata(view, "ss_network_alpha", scale, err);
}

static ck_status export(const ck_reader *weights, const ck_adapter *a, const ck_params *factors,
                        const char *path, ck_dtype dtype, const ck_meta *facts, size_t count,
                        ck_error *err) {
    ck_reader *view;
    CK_TRY(ck_view_new(path, &view, err));
    ck_status s = CK_OK;
    for (size_t i = 0; i < ck_reader_count(weights) && s == CK_OK; i++) {
        const ck_tensor *t = ck_reader_tensor(weights, i);
        s = ck_view_rename(view, t->name, weights, t, err);
    }
    if (s == CK_OK) s = add_alphas(view, a, factors, err);
    if (s == CK_OK) s = ck_adapter_describe(view, a->rank, a->alpha, err);
    if (s == CK_OK) s = ck_view_finish(view, err);
    if (s == CK_OK) s = ck_export_reader(view, path, dtype, facts, count, err);
    ck_reader_close(view);
    return s;
}

ck_status ck_adapter_export(const ck_adapter *a, const ck_params *factors, const char *path,
                            ck_dtype dtype, const ck_meta *facts, size_t count, ck_error *err) {
    ck_reader *weights;
    CK_TRY(ck_params_reader(factors, &weights, err));
    ck_status s = export(weights, a, factors, path, dtype, facts, count, err);
    ck_reader_close(weights);
    return s;
}
