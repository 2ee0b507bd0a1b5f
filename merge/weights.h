/* Block weights: in the place of a parameter's number, one number for each block of the model.
 *
 *   ck_weights *w;
 *   CK_TRY(ck_weights_parse("cosine:1,0", &arena, &w, err));       before a model is known
 *   CK_TRY(ck_weights_bind(w, 0.3, false, &blocks, values, err));  then values[block]
 *
 * As text (the command line):
 *   "0,0.1,..."         a number for each block, as web UIs have them
 *   "linear:0,0.5,1"    numbers spread evenly over the depth, values between them interpolated, as
 *                       in mergekit's lists; "linear" alone is linear:0,1
 *   "cosine:1,0", "smoothstep:0,1,0"  the same with a softer curve from number to number
 *   "GRAD_V"            a preset, or the path of a file like one (see merge/presets.h)
 * and as JSON (recipes, presets):
 *   {"weights": [...]} or {"gradient": [0, 0.5, 1], "curve": "cosine"} or {"preset": "GRAD_V"},
 *   "base": 0.3         of all that is not the denoiser, where the list does not begin with it;
 *                       default: the parameter's own
 *   "blocks": {"IN00-IN05 M00": 0.5, "vae": 0}   first match wins, before everything above
 *
 * For a model of n blocks a list has n numbers, or n + 1 with that of BASE first. Also read are
 * lists for SD1 (25, 26) with SDXL, of which supermerger takes IN00-IN08, M00 and OUT00-OUT08; for
 * FLUX supermerger's 61, which begin with CLIP and T5; and for LoRAs the 17 (SD1) and 12 (SDXL) of
 * "LoRA block weight", which have BASE and the blocks with attention, others being 0.
 *
 * Between the numbers a, b of a gradient at place u in 0..1: linear a + (b - a) u; smoothstep the
 * same with u u (3 - 2 u); cosine with (1 - cos(pi u)) / 2. Place of block i of n: i / (n - 1).
 */
#ifndef CK_WEIGHTS_H
#define CK_WEIGHTS_H

#include "io/arena.h"
#include "io/blocks.h"
#include "io/json.h"

typedef enum ck_curve {
    CK_CURVE_LIST, /* numbers are the blocks' own */
    CK_CURVE_LINEAR,
    CK_CURVE_COSINE,
    CK_CURVE_SMOOTHSTEP,
} ck_curve;

/* The words for all but the first. */
#define CK_CURVE_WORDS "linear|cosine|smoothstep"

enum { CK_MAX_WEIGHTS = CK_MAX_BLOCKS };

typedef struct ck_weights_override {
    const char *blocks; /* see ck_blocks_select */
    double value;
} ck_weights_override;

typedef struct ck_weights {
    ck_curve curve;
    const double *numbers;
    size_t count; /* 0: base everywhere but for the overrides */
    bool has_base;
    double base;
    const ck_weights_override *overrides;
    size_t override_count;
} ck_weights;

/* From text; everything lives in the arena. CK_USAGE. */
ck_status ck_weights_parse(const char *text, ck_arena *arena, ck_weights **w, ck_error *err);

/* The fields of the JSON form. */
#define CK_WEIGHTS_FIELDS "weights gradient curve preset base blocks"

/* Reads a number of a document, for which a variable may stand. */
typedef ck_status (*ck_weights_number)(const void *context, const cJSON *node, double *number,
                                       ck_error *err);

/* From the JSON form; other fields are the caller's. A preset's path is relative to folder (NULL:
 * the current one). CK_INPUT with the place. */
ck_status ck_weights_read(const ck_json *doc, const cJSON *object, ck_weights_number number,
                          const void *context, const char *folder, ck_arena *arena, ck_weights **w,
                          ck_error *err);

/* The JSON form, in which a preset is its numbers; base is written where w has none. NULL: no
 * memory. */
cJSON *ck_weights_json(const ck_weights *w, double base);

/* Whether the text could be block weights other than a single number. */
bool ck_weights_is_text(const char *text);

/* The value of every block; base is used where w has none. lora: these are strengths of a LoRA.
 * CK_USAGE, naming the blocks that are expected, when the numbers do not fit. */
ck_status ck_weights_bind(const ck_weights *w, double base, bool lora, const ck_blocks *blocks,
                          double values[CK_MAX_BLOCKS], ck_error *err);

/* Multiplies all its numbers. False: no memory. */
bool ck_weights_scale(ck_weights *w, double factor, ck_arena *arena);

#endif
