/* Detail, contrast, brightness and colour of a UNet's pictures. */
#include "merge/method.h"

#include <string.h>

enum { DETAIL1, DETAIL2, DETAIL3, CONTRAST, BRIGHTNESS, CHANNELS = 4 };

/* How much a step of brightness and of the three colours changes the channels of the latent image
 * but for the first. */
static const double sd1_colors[4][3] = {{-1, 1. / 3, 2. / 3}, {1, 1, 0}, {0, -1, -1}, {1, 0, 1}};
static const double sdxl_colors[4][3] = {{0, 0, 1}, {1, 0, 0}, {-1, -1, 0}, {-1, 1, 0}};

/* items: a factor, and what is added to each of the first four elements. */
static bool for_tensor(const ck_value *v, const char *name, bool sdxl, double *items) {
    static const struct {
        const char *weight, *bias;
        int parameter;
    } layers[] = {{"input_blocks.0.0.weight", "input_blocks.0.0.bias", DETAIL1},
                  {"out.0.weight", "out.0.bias", DETAIL2},
                  {"out.2.weight", NULL, DETAIL3}};
    memset(items, 0, (1 + CHANNELS) * sizeof *items);
    items[0] = 1;
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++) {
        double f = v[layers[i].parameter].items[0];
        if (strcmp(name, layers[i].weight) == 0) items[0] = 1 - 0.01 * f;
        if (layers[i].bias && strcmp(name, layers[i].bias) == 0) items[0] = 1 + 0.02 * f;
    }
    if (strcmp(name, "out.2.bias") == 0) {
        items[1] = 0.02 * v[CONTRAST].items[0];
        for (int j = 0; j < 3; j++)
            for (int i = 0; i < 4; i++)
                items[2 + j] +=
                    0.02 * (sdxl ? sdxl_colors : sd1_colors)[i][j] * v[BRIGHTNESS + i].items[0];
    }
    bool changes = items[0] != 1;
    for (int j = 1; j <= CHANNELS; j++) changes |= items[j] != 0;
    return changes;
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    const double *items = args->values[0].items;
    k->scale(out, in[0], (float)items[0], n);
    for (uint64_t i = args->first; i < CHANNELS && i - args->first < n; i++)
        if (items[1 + i] != 0) out[i - args->first] += (float)items[1 + i];
}

extern const ck_method ck_adjust;
const ck_method ck_adjust = {
    .name = "adjust",
    .title = "Adjust",
    .formula = "A with another first and last layer of its UNet",
    .doc = "As supermerger's Adjust, of SD1, SD2 and SDXL; values of -5 to 5 are usual, 0 changes "
           "nothing. The weight of the first convolution is multiplied by 1 - 0.01 detail1 and its "
           "bias "
           "by 1 + 0.02 detail1; the last norm (out.0) in the same way by detail2; the last "
           "convolution's "
           "weight (out.2) by 1 - 0.01 detail3, and to its bias [4] are added 0.02 contrast and, "
           "for the "
           "other three channels, 0.02 (brightness r0 + color1 r1 + color2 r2 + color3 r3), where "
           "r are "
           "[-1,1/3,2/3], [1,1,0], [0,-1,-1], [1,0,1] for SD1 and SD2, and [0,0,1], [1,0,0], "
           "[-1,-1,0], "
           "[-1,1,0] for SDXL. On the command line: --adjust with the eight numbers in this order.",
    .min_inputs = 1,
    .max_inputs = 1,
    .parameters = {{.name = "detail1", .help = "detail and noise, at the input"},
                   {.name = "detail2", .help = "detail and noise, at the output's norm"},
                   {.name = "detail3", .help = "detail and noise, at the output"},
                   {.name = "contrast", .help = "contrast and detail"},
                   {.name = "brightness", .help = "brightness"},
                   {.name = "color1", .help = "the first of three colour tones"},
                   {.name = "color2", .help = "the second"},
                   {.name = "color3", .help = "the third"}},
    .for_tensor = for_tensor,
    .block = block,
};
