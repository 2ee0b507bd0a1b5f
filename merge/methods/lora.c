/* A LoRA applied to a model. What the LoRA changes is made by merge/lora_changes.c. */
#include "merge/method.h"

#include <string.h>

static int same_as(const ck_value *values, size_t inputs) {
    (void)inputs;
    return values[0].items[0] == 0 ? 0 : -1;
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    memcpy(out, in[0], n * sizeof *out);
    k->accumulate(out, in[1], (float)args->values[0].items[0], n);
}

extern const ck_method ck_lora_method;
const ck_method ck_lora_method = {
    .name = "lora",
    .title = "LoRA",
    .formula = "A + strength L, L the changes of a LoRA file",
    .doc =
        "L is alpha / rank times up down for LoRA and LoCon, and accordingly for LoHa, LoKr, DoRA "
        "and full differences, in f32, added with one rounding at the end. Several are applied one "
        "within the other. Tools that round the sum after every LoRA lose up to half a unit in "
        "the last place each time. A tensor that the LoRA does not change is A's.\n"
        "The strength of a DoRA goes straight from W to its W', as in ComfyUI; LyCORIS scales the "
        "factor of the magnitude only, so that its strength 0 is not W. Its length is that of "
        "W + change, as PEFT and the paper have it; ComfyUI divides by the length of W.",
    .min_inputs = 2,
    .max_inputs = 2,
    .parameters = {{.name = "strength", .fallback = 1, .help = "how much of the LoRA"}},
    .adds_changes = true,
    .same_as = same_as,
    .block = block,
};
