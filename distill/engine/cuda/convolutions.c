/* See convolutions.h. By cuDNN's graphs, each of one operation and what is added to it: its arrays,
 * then engines that are proposed, then a plan, which is run with addresses. */
#include "distill/engine/cuda/convolutions.h"

#include "distill/engine/convolution.h"
#include "distill/engine/cuda/card.h"
#include "distill/engine/cuda/choices.h"
#include "io/os.h"

#include <cudnn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef cudnnBackendDescriptor_t descriptor;

/* What a plan was made for. */
typedef struct kind {
    ck_op op;
    ck_convolution v;
    ck_cuda_precision precision;
    ck_gpu_added added;
} kind;

typedef struct plan {
    kind of;
    descriptor plan; /* NULL: nothing that adds that at once */
    size_t workspace;
} plan;

static struct {
    cudnnHandle_t handle;
    descriptor card; /* NULL: the handle's; else plans are only made, and never run */
    plan **plans;
    size_t count, capacity;
} dnn;

/* The names of arrays in a graph, also by their place in it. BARE and SUM lie in no memory: the
 * convolution alone, and with the residual. */
enum { X, W, Y, ARRAYS, BIAS = ARRAYS, RESIDUAL, BARE, SUM };

#define NOTE(call)                                                                                 \
    do {                                                                                           \
        cudnnStatus_t code = (call);                                                               \
        if (code == CUDNN_STATUS_ALLOC_FAILED ||                                                   \
            code == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED)                          \
            ck_card_note_full(#call);                                                              \
        else if (code != CUDNN_STATUS_SUCCESS)                                                     \
            ck_card_note(#call, cudnnGetErrorString(code));                                        \
    } while (0)

ck_status ck_cuda_convolutions_open(ck_error *err) {
    if (dnn.handle) return CK_OK;
    NOTE(cudnnCreate(&dnn.handle));
    NOTE(cudnnSetStream(dnn.handle, ck_card_stream()));
    return ck_card_check(err);
}

/* ---- Descriptors ---- */

static descriptor make(cudnnBackendDescriptorType_t type) {
    descriptor d = NULL;
    NOTE(cudnnBackendCreateDescriptor(type, &d));
    return d;
}

static void drop(descriptor d) {
    if (d) cudnnBackendDestroyDescriptor(d);
}

static void set(descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                int64_t count, const void *values) {
    NOTE(cudnnBackendSetAttribute(d, name, type, count, values));
}

static void set_descriptor(descriptor d, cudnnBackendAttributeName_t name, descriptor value) {
    set(d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

ck_status ck_cuda_convolutions_plan_for(const char *card, ck_error *err) {
    dnn.card = make(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    set(dnn.card, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, (int64_t)strlen(card),
        card);
    NOTE(cudnnBackendFinalize(dnn.card));
    return ck_card_check(err);
}

enum { ALIGNMENT = 16 }; /* bytes, of all arrays */

/* Images: N C H W in the library's order, whatever their order in memory; weights: K C R S. One
 * that is passing lies in no memory. */
static descriptor array(cudnnDataType_t type, int64_t name, bool passing, int64_t n, int64_t c,
                        int64_t h, int64_t w) {
    descriptor d = make(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    const int64_t sizes[] = {n, c, h, w}, distances[] = {h * w * c, 1, w * c, c};
    const int64_t alignment = ALIGNMENT;
    set(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &name);
    set(d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, sizes);
    set(d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, distances);
    set(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    set(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &passing);
    NOTE(cudnnBackendFinalize(d));
    return d;
}

/* Zeros behind `size` pixels: as many as before where that comes to as many results, as there are
 * engines that take nothing else; else as few as will do. */
static int64_t padding_after(int64_t size, int64_t results, int64_t side, int64_t stride,
                             int64_t before) {
    int64_t least = (results - 1) * stride + side - before - size;
    if ((size + 2 * before - side) / stride + 1 == results) return before;
    return least < 0 ? 0 : least;
}

static descriptor geometry(const ck_convolution *v) {
    descriptor d = make(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    const int64_t dims = 2, dilation[] = {1, 1}, stride[] = {v->stride, v->stride};
    const int64_t before[] = {v->top, v->left};
    const int64_t after[] = {padding_after(v->h, v->p, v->r, v->stride, v->top),
                             padding_after(v->w, v->q, v->s, v->stride, v->left)};
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    set(d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &dims);
    set(d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    set(d, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, dilation);
    set(d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, stride);
    set(d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, before);
    set(d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, after);
    NOTE(cudnnBackendFinalize(d));
    return d;
}

/* What an operation is called, and its attributes: the geometry, arrays by name, factors. */
typedef struct words {
    cudnnBackendDescriptorType_t type;
    cudnnBackendAttributeName_t geometry, arrays[ARRAYS], alpha, beta;
} words;

static words words_of(ck_op op) {
    if (op == CK_OP_CONV)
        return (words){CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                       {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y},
                       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA};
    if (op == CK_OP_CONV_DATA_GRAD)
        return (words){CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                       {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY},
                       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA};
    return (words){CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                   {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY},
                   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA};
}

/* What a graph is made of, to be dropped after it: arrays by their names, and the rest. */
enum { GEOMETRY = SUM + 1, CONVOLUTION, ADDITION, ADDING_BIAS, ADDING_RESIDUAL, PARTS };

static void make_convolution(const kind *k, int result, descriptor parts[PARTS]) {
    const words w = words_of(k->op);
    const float one = 1, zero = 0;
    descriptor operation = parts[CONVOLUTION] = make(w.type);
    set_descriptor(operation, w.geometry, parts[GEOMETRY]);
    for (int i = 0; i < ARRAYS; i++)
        set_descriptor(operation, w.arrays[i], parts[i == Y ? result : i]);
    set(operation, w.alpha, CUDNN_TYPE_FLOAT, 1, &one);
    set(operation, w.beta, CUDNN_TYPE_FLOAT, 1, &zero);
    NOTE(cudnnBackendFinalize(operation));
}

/* y = x + b; false where the library does not do this. */
static bool make_addition(int operation, int x, int b, int y, descriptor parts[PARTS]) {
    descriptor d = parts[operation] = make(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_descriptor(d, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, parts[ADDITION]);
    set_descriptor(d, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, parts[x]);
    set_descriptor(d, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, parts[b]);
    set_descriptor(d, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, parts[y]);
    return cudnnBackendFinalize(d) == CUDNN_STATUS_SUCCESS;
}

/* What is added, in f32. (Residual before bias, and the bias of the numbers that all have, is how
 * the library's own engines add them while they compute; others it has to compile.) */
static bool make_additions(const kind *k, cudnnDataType_t type, descriptor parts[PARTS]) {
    const cudnnPointwiseMode_t add = CUDNN_POINTWISE_ADD;
    const cudnnDataType_t f32 = CUDNN_DATA_FLOAT;
    const ck_convolution *v = &k->v;
    bool both = k->added.bias && k->added.residual;
    parts[BARE] = array(f32, BARE, true, v->n, v->k, v->p, v->q);
    parts[ADDITION] = make(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(parts[ADDITION], CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &add);
    set(parts[ADDITION], CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &f32);
    NOTE(cudnnBackendFinalize(parts[ADDITION]));
    if (both) parts[SUM] = array(f32, SUM, true, v->n, v->k, v->p, v->q);
    if (k->added.residual) {
        parts[RESIDUAL] = array(type, RESIDUAL, false, v->n, v->k, v->p, v->q);
        if (!make_addition(ADDING_RESIDUAL, BARE, RESIDUAL, both ? SUM : Y, parts)) return false;
    }
    if (!k->added.bias) return true;
    parts[BIAS] = array(type, BIAS, false, 1, v->k, 1, 1);
    return make_addition(ADDING_BIAS, both ? SUM : BARE, BIAS, Y, parts);
}

static bool adds(const kind *k) {
    return k->added.bias || k->added.residual;
}

/* NULL where the library does not have it. */
static descriptor graph_of(const kind *k, descriptor parts[PARTS]) {
    const ck_convolution *v = &k->v;
    cudnnDataType_t type = k->precision == CK_CUDA_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
    parts[X] = array(type, X, false, v->n, v->c, v->h, v->w);
    parts[W] = array(type, W, false, v->k, v->c, v->r, v->s);
    parts[Y] = array(type, Y, false, v->n, v->k, v->p, v->q);
    parts[GEOMETRY] = geometry(v);
    if (adds(k) && !make_additions(k, type, parts)) return NULL;
    make_convolution(k, adds(k) ? BARE : Y, parts);
    descriptor graph = make(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR), operations[3];
    int64_t count = 0;
    operations[count++] = parts[CONVOLUTION];
    if (k->added.residual) operations[count++] = parts[ADDING_RESIDUAL];
    if (k->added.bias) operations[count++] = parts[ADDING_BIAS];
    if (!dnn.card) set(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &dnn.handle);
    set(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, count, operations);
    if (cudnnBackendFinalize(graph) == CUDNN_STATUS_SUCCESS) return graph;
    drop(graph);
    return NULL;
}

/* ---- Engines ---- */

enum { MOST_WORKSPACE = 1 << 30, MOST_ENGINES = 64 };

/* Whether the same sources give the same bits; for f32, also as exact as sums of products are. */
static bool is_wanted(descriptor engine, ck_cuda_precision precision) {
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t count = 0;
    if (cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                 CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &count,
                                 notes) != CUDNN_STATUS_SUCCESS)
        return false;
    for (int64_t i = 0; i < count; i++) {
        bool rough = notes[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE ||
                     notes[i] == CUDNN_NUMERICAL_NOTE_FFT ||
                     notes[i] == CUDNN_NUMERICAL_NOTE_WINOGRAD;
        if (notes[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC ||
            notes[i] == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS ||
            notes[i] == CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION ||
            (rough && precision == CK_CUDA_F32))
            return false;
    }
    return true;
}

/* The plan of one that is proposed; NULL if it is not wanted or cannot do it. */
static descriptor try_engine(descriptor configuration, ck_cuda_precision precision,
                             size_t *workspace) {
    descriptor engine = make(CUDNN_BACKEND_ENGINE_DESCRIPTOR), made;
    int64_t count = 0, bytes = 0;
    bool good = cudnnBackendGetAttribute(configuration, CUDNN_ATTR_ENGINECFG_ENGINE,
                                         CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count,
                                         &engine) == CUDNN_STATUS_SUCCESS &&
                is_wanted(engine, precision);
    drop(engine);
    if (!good) return NULL;
    made = make(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    if (dnn.card)
        set_descriptor(made, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, dnn.card);
    else
        set(made, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &dnn.handle);
    set_descriptor(made, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
    good = cudnnBackendFinalize(made) == CUDNN_STATUS_SUCCESS &&
           cudnnBackendGetAttribute(made, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                    CUDNN_TYPE_INT64, 1, &count, &bytes) == CUDNN_STATUS_SUCCESS &&
           bytes <= MOST_WORKSPACE;
    if (!good) {
        drop(made);
        return NULL;
    }
    *workspace = (size_t)bytes;
    return made;
}

/* ---- Engines as text: "34 5=2 7=0", a number of the library's and how its knobs are turned ----
 */

enum { MOST_KNOBS = CUDNN_KNOB_TYPE_COUNTS, CHOICE_TEXT = 24 * (MOST_KNOBS + 1) };

size_t ck_cuda_convolutions_version(void) {
    return cudnnGetVersion();
}

typedef struct choice {
    int64_t engine, types[MOST_KNOBS], values[MOST_KNOBS];
    int count;
} choice;

static bool read_choice(const char *text, choice *c) {
    int n = 0, more;
    c->count = 0;
    if (sscanf(text, "%" SCNd64 "%n", &c->engine, &n) != 1) return false;
    for (text += n; *text; text += more) {
        if (c->count == MOST_KNOBS || sscanf(text, " %" SCNd64 "=%" SCNd64 "%n",
                                             &c->types[c->count], &c->values[c->count], &more) != 2)
            return false;
        c->count++;
    }
    return true;
}

/* In the place of an engine: what is added is so by kernels of our own. */
static const char apart[] = "apart";

bool ck_cuda_is_convolution_choice(const char *text) {
    choice c;
    return strcmp(text, apart) == 0 || read_choice(text, &c);
}

static bool get_int(descriptor d, cudnnBackendAttributeName_t name, int64_t *value) {
    int64_t count = 0;
    return cudnnBackendGetAttribute(d, name, CUDNN_TYPE_INT64, 1, &count, value) ==
               CUDNN_STATUS_SUCCESS &&
           count == 1;
}

static bool write_knob(descriptor knob, char *text, size_t size) {
    cudnnBackendKnobType_t type;
    int64_t count = 0, value;
    if (cudnnBackendGetAttribute(knob, CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1,
                                 &count, &type) != CUDNN_STATUS_SUCCESS ||
        !get_int(knob, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, &value))
        return false;
    size_t used = strlen(text);
    snprintf(text + used, size - used, " %d=%" PRId64, (int)type, value);
    return true;
}

/* What was chosen in a configuration; false where the library does not say. */
static bool write_choice(descriptor configuration, char text[CHOICE_TEXT]) {
    descriptor engine = make(CUDNN_BACKEND_ENGINE_DESCRIPTOR), knobs[MOST_KNOBS];
    int64_t count = 0, number;
    bool good = cudnnBackendGetAttribute(configuration, CUDNN_ATTR_ENGINECFG_ENGINE,
                                         CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count,
                                         &engine) == CUDNN_STATUS_SUCCESS &&
                get_int(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, &number);
    drop(engine);
    if (!good) return false;
    snprintf(text, CHOICE_TEXT, "%" PRId64, number);
    for (int i = 0; i < MOST_KNOBS; i++) knobs[i] = make(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
    count = 0;
    good = cudnnBackendGetAttribute(configuration, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
                                    CUDNN_TYPE_BACKEND_DESCRIPTOR, MOST_KNOBS, &count,
                                    knobs) == CUDNN_STATUS_SUCCESS;
    for (int64_t i = 0; i < count && good; i++) good = write_knob(knobs[i], text, CHOICE_TEXT);
    for (int i = 0; i < MOST_KNOBS; i++) drop(knobs[i]);
    return good;
}

static descriptor make_knob(int64_t type, int64_t value) {
    descriptor knob = make(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
    cudnnBackendKnobType_t name = (cudnnBackendKnobType_t)type;
    cudnnBackendSetAttribute(knob, CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1,
                             &name);
    cudnnBackendSetAttribute(knob, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &value);
    cudnnBackendFinalize(knob);
    return knob;
}

/* The plan of an engine that was chosen before; NULL if it cannot be made. (The library says what
 * it does not like when the plan is finished.) */
static descriptor kept_engine(descriptor graph, const char *text, ck_cuda_precision precision,
                              size_t *workspace) {
    choice c;
    descriptor knobs[MOST_KNOBS], made = NULL;
    if (!read_choice(text, &c)) return NULL;
    descriptor engine = make(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    descriptor configuration = make(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    set_descriptor(engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, graph);
    set(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &c.engine);
    if (dnn.card) set_descriptor(engine, CUDNN_ATTR_ENGINE_DEVICEPROP, dnn.card);
    cudnnBackendFinalize(engine);
    cudnnBackendSetAttribute(configuration, CUDNN_ATTR_ENGINECFG_ENGINE,
                             CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &engine);
    for (int i = 0; i < c.count; i++) knobs[i] = make_knob(c.types[i], c.values[i]);
    if (c.count)
        cudnnBackendSetAttribute(configuration, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
                                 CUDNN_TYPE_BACKEND_DESCRIPTOR, c.count, knobs);
    if (cudnnBackendFinalize(configuration) == CUDNN_STATUS_SUCCESS)
        made = try_engine(configuration, precision, workspace);
    for (int i = 0; i < c.count; i++) drop(knobs[i]);
    drop(configuration);
    drop(engine);
    return made;
}

/* The first good one of those that the library proposes this way, and its text: what cannot be kept
 * is not wanted. */
static descriptor first_engine(descriptor graph, cudnnBackendHeurMode_t way,
                               ck_cuda_precision precision, size_t *workspace,
                               char text[CHOICE_TEXT]) {
    descriptor heuristic = make(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR), made = NULL;
    descriptor proposed[MOST_ENGINES];
    int64_t count = 0;
    for (int i = 0; i < MOST_ENGINES; i++) proposed[i] = make(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    set_descriptor(heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &way);
    if (dnn.card) set_descriptor(heuristic, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, dnn.card);
    if (cudnnBackendFinalize(heuristic) != CUDNN_STATUS_SUCCESS ||
        cudnnBackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                 CUDNN_TYPE_BACKEND_DESCRIPTOR, MOST_ENGINES, &count,
                                 proposed) != CUDNN_STATUS_SUCCESS)
        count = 0;
    for (int64_t i = 0; i < count && !made; i++) {
        made = try_engine(proposed[i], precision, workspace);
        if (made && !write_choice(proposed[i], text)) {
            drop(made);
            made = NULL;
        }
    }
    for (int i = 0; i < MOST_ENGINES; i++) drop(proposed[i]);
    drop(heuristic);
    return made;
}

/* ---- Plans ---- */

static void name_kind(const kind *k, char text[256]) {
    const ck_convolution *v = &k->v;
    snprintf(
        text, 256,
        "%s%s%s precision %d n %lld h %lld w %lld c %lld by k %lld r %lld s %lld to p %lld q %lld "
        "stride %lld top %lld left %lld",
        ck_op_name(k->op), k->added.bias ? " and bias" : "",
        k->added.residual ? " and residual" : "", (int)k->precision, (long long)v->n,
        (long long)v->h, (long long)v->w, (long long)v->c, (long long)v->k, (long long)v->r,
        (long long)v->s, (long long)v->p, (long long)v->q, (long long)v->stride, (long long)v->top,
        (long long)v->left);
}

/* An engine that is kept, or the first good one. */
static ck_status choose(plan *p, descriptor graph, ck_error *err) {
    static const cudnnBackendHeurMode_t ways[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
    char name[256], text[CHOICE_TEXT] = "";
    name_kind(&p->of, name);
    const char *kept = ck_choices_find(name);
    if (kept && adds(&p->of) && strcmp(kept, apart) == 0) return CK_OK;
    if (kept && graph) p->plan = kept_engine(graph, kept, p->of.precision, &p->workspace);
    if (kept && !p->plan)
        return ck_fail(err, CK_USAGE,
                       "cuDNN refuses the engine that plans.json keeps for %s; without that file "
                       "another is chosen",
                       name);
    size_t count = adds(&p->of) ? 1 : 2; /* what is slow is no gain over adding apart */
    for (size_t i = 0; i < count && !p->plan && graph; i++)
        p->plan = first_engine(graph, ways[i], p->of.precision, &p->workspace, text);
    if (!p->plan && adds(&p->of)) return ck_choices_add(name, apart, err);
    if (!p->plan)
        return ck_fail(err, CK_USAGE,
                       "cuDNN has nothing for %s that gives the same bits every time", name);
    return kept ? CK_OK : ck_choices_add(name, text, err);
}

static ck_status make_plan(plan *p, ck_error *err) {
    descriptor parts[PARTS] = {NULL}, graph = graph_of(&p->of, parts);
    ck_status s = ck_card_check(err);
    if (s == CK_OK) s = choose(p, graph, err);
    drop(graph);
    for (int i = PARTS; i-- > 0;) drop(parts[i]);
    cudaGetLastError(); /* of engines that were tried and could not */
    return s;
}

/* (Compared as bytes: a kind is made of zeroes first, gaps included.) */
static ck_status plan_of(const kind *k, plan **found, ck_error *err) {
    for (size_t i = 0; i < dnn.count; i++)
        if (memcmp(&dnn.plans[i]->of, k, sizeof *k) == 0) {
            *found = dnn.plans[i];
            return CK_OK;
        }
    plan **grown = ck_grow(dnn.plans, dnn.count, &dnn.capacity, sizeof *grown);
    if (!grown) return ck_fail_memory(err, "a convolution");
    dnn.plans = grown;
    plan *p = ck_alloc(sizeof *p);
    if (!p) return ck_fail_memory(err, "a convolution");
    memcpy(&p->of, k, sizeof *k);
    ck_status s = make_plan(p, err);
    if (s != CK_OK)
        free(p);
    else
        *found = dnn.plans[dnn.count++] = p;
    return s;
}

static void execute(const plan *p, void *x, void *w, void *y, const void *bias,
                    const void *residual, void *workspace) {
    int64_t names[] = {X, W, Y, 0, 0}, count = ARRAYS;
    void *places[] = {x, w, y, NULL, NULL};
    if (bias) names[count] = BIAS, places[count++] = (void *)bias;
    if (residual) names[count] = RESIDUAL, places[count++] = (void *)residual;
    for (int64_t i = 0; i < count; i++)
        if ((uintptr_t)places[i] % ALIGNMENT != 0)
            ck_card_note("a convolution", "an array does not begin at a multiple of 16 bytes");
    descriptor pack = make(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, names);
    set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, places);
    set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    NOTE(cudnnBackendFinalize(pack));
    NOTE(cudnnBackendExecute(dnn.handle, p->plan, pack));
    drop(pack);
}

void ck_cuda_convolve(const void *plan_of_it, const void *first, const void *second,
                      const void *bias, const void *residual, void *dst, void *workspace) {
    const plan *p = plan_of_it;
    void *a = (void *)first, *b = (void *)second;
    if (p->of.op == CK_OP_CONV_DATA_GRAD)
        execute(p, dst, b, a, NULL, NULL, workspace);
    else if (p->of.op == CK_OP_CONV_WEIGHT_GRAD)
        execute(p, a, dst, b, NULL, NULL, workspace);
    else
        execute(p, a, b, dst, bias, residual, workspace);
}

ck_status ck_cuda_convolution(ck_cuda_precision precision, const ck_graph *g, ck_node n,
                              ck_gpu_added *added, void **made, size_t *workspace, ck_error *err) {
    const ck_convolution v = ck_convolution_of(g, n);
    kind k;
    plan *p = NULL;
    memset(&k, 0, sizeof k);
    k.op = g->nodes[n].op;
    memcpy(&k.v, &v, sizeof v);
    k.precision = precision;
    k.added = *added;
    CK_TRY(plan_of(&k, &p, err));
    if (!p->plan && k.added.residual) {
        k.added.residual = false;
        CK_TRY(plan_of(&k, &p, err));
    }
    if (!p->plan) {
        k.added.bias = false;
        CK_TRY(plan_of(&k, &p, err));
    }
    *added = k.added;
    *made = p;
    *workspace = p->workspace;
    return CK_OK;
}
