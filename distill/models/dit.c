/* See dit_int.h. */
#include "distill/models/dit_int.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double EPS = 1e-6;

enum { SINES = 256 };

ck_node ck_dit__time(const ck_scope *s, ck_node time, ck_node guidance, ck_node pooled,
                     int64_t width) {
    ck_scope t = ck_scope__child(s, "time_text_embed.timestep_embedder.");
    ck_scope p = ck_scope__child(s, "time_text_embed.text_embedder.");
    ck_scope w = ck_scope__child(s, "time_text_embed.guidance_embedder.");
    ck_node e = ck_layer__embedding(&t, ck_timestep(s->g, time, SINES, true, 0, 10000), width);
    if (guidance != CK_NONE) {
        ck_node sines =
            ck_timestep(s->g, ck_affine(s->g, guidance, 1000, 0), SINES, true, 0, 10000);
        e = ck_add(s->g, e, ck_layer__embedding(&w, sines, width));
    }
    e = ck_add(s->g, e, ck_layer__embedding(&p, pooled, width));
    return ck_unary_op(s->g, CK_SILU, e, 0);
}

static ck_status add_layer(ck_params *params, const char *layer, int64_t out, int64_t in,
                           ck_error *err) {
    char weight[96], bias[96];
    snprintf(weight, sizeof weight, "time_text_embed.guidance_embedder.%s.weight", layer);
    snprintf(bias, sizeof bias, "time_text_embed.guidance_embedder.%s.bias", layer);
    CK_TRY(ck_params_add(params, weight, 2, (int64_t[]){out, in}, err));
    return ck_params_add(params, bias, 1, &out, err);
}

ck_status ck_dit__tell(ck_params *params, int64_t width, ck_error *err) {
    size_t time, told;
    const int64_t shape[] = {width, SINES};
    CK_TRY(add_layer(params, "linear_1", width, SINES, err));
    CK_TRY(add_layer(params, "linear_2", width, width, err));
    CK_TRY(ck_params_need(params, "time_text_embed.timestep_embedder.linear_1.weight", 2, shape,
                          &time, err));
    CK_TRY(ck_params_need(params, "time_text_embed.guidance_embedder.linear_1.weight", 2, shape,
                          &told, err));
    float *to = ck_params_data(params, told);
    size_t n = ck_params_elements(params, told);
    if (to) memcpy(to, ck_params_data(params, time), n * sizeof *to); /* (NULL: hollow) */
    return CK_OK;
}

void ck_dit__modulation(const ck_scope *s, const char *name, ck_node time, int64_t width, int count,
                        ck_node *out) {
    ck_node all = ck_layer__linear(s, name, time, count * width, true);
    int64_t n = ck_node_shape(s->g, all).d[0];
    for (int i = 0; i < count; i++)
        out[i] = ck_reshape(s->g, ck_slice(s->g, all, 1, i * width, width), CK_SHAPE(n, 1, width));
}

ck_node ck_dit__modulate(const ck_scope *s, ck_node x, ck_node shift, ck_node scale) {
    ck_node h = ck_layer_norm(s->g, x, CK_NONE, CK_NONE, EPS);
    ck_node factor = ck_inner(s->g, ck_affine(s->g, scale, 1, 1));
    return ck_add(s->g, ck_inner(s->g, ck_mul(s->g, h, factor)), shift);
}

/* ---- Attention ---- */

const char *const ck_dit__own[5] = {"to_q", "to_k", "to_v", "norm_q", "norm_k"};
static const char *const added[5] = {"add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q",
                                     "norm_added_k"};

static ck_node norm_heads(const ck_scope *s, const ck_dit *d, const char *name, ck_node x) {
    if (!d->normed) return x;
    ck_shape all = ck_node_shape(s->g, x);
    ck_node h = ck_reshape(s->g, x, CK_SHAPE(all.d[0], all.d[1], d->heads, all.d[2] / d->heads));
    return ck_reshape(s->g, ck_layer__rms_norm(s, name, h, EPS), all);
}

ck_dit_heads ck_dit__heads(const ck_scope *s, const ck_dit *d, const char *const names[5],
                           ck_node x) {
    int64_t width = ck_scope__width(s, x);
    ck_node q = ck_layer__linear(s, names[0], x, width, true);
    ck_node k = ck_layer__linear(s, names[1], x, width, true);
    ck_node v = ck_layer__linear(s, names[2], x, width, true);
    return (ck_dit_heads){norm_heads(s, d, names[3], q), norm_heads(s, d, names[4], k), v};
}

/* Pairs of neighbours are turned by an angle that depends on where the token is. */
static ck_node rotate(const ck_scope *s, const ck_dit *d, ck_node x) {
    if (d->cosine == CK_NONE) return x;
    ck_graph *g = s->g;
    ck_shape all = ck_node_shape(g, x);
    int64_t pairs = all.d[2] / d->heads / 2;
    ck_node h = ck_reshape(g, x, CK_SHAPE(all.d[0], all.d[1], d->heads, pairs, 2));
    ck_node a = ck_slice(g, h, 4, 0, 1), b = ck_slice(g, h, 4, 1, 1);
    ck_node first = ck_sub(g, ck_mul(g, a, d->cosine), ck_mul(g, b, d->sine));
    ck_node second = ck_add(g, ck_mul(g, b, d->cosine), ck_mul(g, a, d->sine));
    return ck_reshape(g, ck_concat(g, first, second, 4), all);
}

ck_node ck_dit__attention(const ck_scope *s, const ck_dit *d, ck_dit_heads h) {
    double scale = 1 / sqrt((double)ck_scope__width(s, h.q) / (double)d->heads);
    return ck_attention(s->g, rotate(s, d, h.q), rotate(s, d, h.k), h.v, (int)d->heads, false,
                        scale);
}

static ck_dit_heads join(ck_graph *g, ck_dit_heads a, ck_dit_heads b) {
    return (ck_dit_heads){ck_concat(g, a.q, b.q, 1), ck_concat(g, a.k, b.k, 1),
                          ck_concat(g, a.v, b.v, 1)};
}

/* ---- Blocks ---- */

static ck_node feed_forward(const ck_scope *s, const char *name, ck_node x) {
    ck_scope net = ck_scope__child(s, "%s.net.", name);
    int64_t width = ck_scope__width(s, x);
    ck_node h = ck_layer__linear(&net, "0.proj", x, 4 * width, true);
    return ck_layer__linear(&net, "2", ck_unary_op(s->g, CK_GELU_TANH, h, 0), width, true);
}

ck_node ck_dit__add_gated(const ck_scope *s, ck_node x, ck_node y, ck_node gate) {
    return ck_add(s->g, x, ck_inner(s->g, ck_mul(s->g, y, gate)));
}

void ck_dit__joint_block(const ck_scope *s, const ck_dit *d, bool dual, bool last, ck_node *x,
                         ck_node *context) {
    ck_scope attn = ck_scope__child(s, "attn."), again = ck_scope__child(s, "attn2.");
    int64_t width = ck_scope__width(s, *x), text = ck_node_shape(s->g, *context).d[1];
    int64_t image = ck_node_shape(s->g, *x).d[1];
    ck_node m[9], c[6]; /* shift, scale, gate of attention, of feed forward, of attn2 */
    ck_dit__modulation(s, "norm1.linear", d->time, width, dual ? 9 : 6, m);
    ck_dit__modulation(s, "norm1_context.linear", d->time, width, last ? 2 : 6, c);
    ck_node h = ck_dit__modulate(s, *x, m[0], m[1]);
    ck_node k = last ? ck_dit__modulate(s, *context, c[1], c[0])
                     : ck_dit__modulate(s, *context, c[0], c[1]);
    ck_dit_heads both =
        join(s->g, ck_dit__heads(&attn, d, added, k), ck_dit__heads(&attn, d, ck_dit__own, h));
    ck_node y = ck_dit__attention(s, d, both), alone = CK_NONE;
    if (dual) {
        h = ck_dit__modulate(s, *x, m[6], m[7]);
        alone = ck_dit__attention(s, d, ck_dit__heads(&again, d, ck_dit__own, h));
        alone = ck_layer__linear(&again, "to_out.0", alone, width, true);
    }
    h = ck_layer__linear(&attn, "to_out.0", ck_slice(s->g, y, 1, text, image), width, true);
    *x = ck_dit__add_gated(s, *x, h, m[2]);
    if (dual) *x = ck_dit__add_gated(s, *x, alone, m[8]);
    h = ck_dit__modulate(s, *x, m[3], m[4]);
    *x = ck_dit__add_gated(s, *x, feed_forward(s, "ff", h), m[5]);
    if (last) return;
    k = ck_layer__linear(&attn, "to_add_out", ck_slice(s->g, y, 1, 0, text), width, true);
    *context = ck_dit__add_gated(s, *context, k, c[2]);
    k = ck_dit__modulate(s, *context, c[3], c[4]);
    *context = ck_dit__add_gated(s, *context, feed_forward(s, "ff_context", k), c[5]);
}

void ck_dit__tap(ck_taps *taps, int64_t i, int64_t blocks, ck_node x) {
    int64_t most = blocks < CK_TAPS ? blocks : CK_TAPS;
    if (!taps || i * most / blocks == (i + 1) * most / blocks) return;
    taps->node[taps->count++] = x;
    taps->encoder = taps->count;
}

ck_node ck_dit__end(const ck_scope *s, const ck_dit *d, ck_node x, int64_t out) {
    ck_node m[2];
    ck_dit__modulation(s, "norm_out.linear", d->time, ck_scope__width(s, x), 2, m);
    return ck_layer__linear(s, "proj_out", ck_dit__modulate(s, x, m[1], m[0]), out, true);
}
