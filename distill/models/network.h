/* The networks that are trained and asked: a UNet or transformer with its text, or a small
 * perceptron for points in the plane, on which every method can be tried in seconds.
 *
 *   ck_network n = {.params = params, .unet = &config};
 *   ck_node answer = ck_network_answer(g, &n, x, time, context, guidance);
 */
#ifndef CK_NETWORK_H
#define CK_NETWORK_H

#include "distill/models/adapter.h"
#include "distill/models/flux.h"
#include "distill/models/mmdit.h"
#include "distill/models/unet.h"

typedef struct ck_network {
    ck_params *params;          /* its weights, or what is trained in their place: */
    const ck_unet_config *unet; /* what it is, one of these; NULL all: the perceptron */
    const ck_mmdit_config *mmdit;
    const ck_flux_config *flux;
    const ck_adapter *adapter; /* params are factors beside adapter->base; or NULL */
    ck_taps *taps;             /* filled with features the first time it is asked; or NULL */
    int64_t factor;            /* SDXL: pixels along an image's side for one of x */
} ck_network;

/* A config of one of the kinds, where a network has one of its own. */
typedef union ck_network_config {
    ck_unet_config unet;
    ck_mmdit_config mmdit;
    ck_flux_config flux;
} ck_network_config;

/* Whether the network is told the scale of guidance (LCM, FLUX dev): then one pass gives what
 * guidance does. */
bool ck_network_guided(const ck_network *n);

/* Whether a student has all blocks of its teacher, of the same kind: only UNets may lack some. */
bool ck_network_same_blocks(const ck_network *student, const ck_network *teacher);

/* Makes the network take a number per sample in the place of guidance (as a rival that is told
 * which step a sample comes from): an embedding that adds nothing until it is trained. config:
 * where its changed config lives. */
ck_status ck_network_tell(ck_network *n, ck_network_config *config, ck_error *err);

/* F(x, time, context): of the shape of x. time: one number per sample. context: N T C for the UNet;
 * where pooled text is taken, too (SDXL, SD3, FLUX), N 1 (T C + P), this behind the tokens, and
 * sizes are those of x, uncropped; CK_NONE for the perceptron: 2 numbers and 16 of the time, three
 * hidden layers of 128, SiLU.
 * guidance: the scale (1: none), one number per sample; used if the network is told it. */
ck_node ck_network_answer(ck_graph *g, const ck_network *n, ck_node x, ck_node time,
                          ck_node context, ck_node guidance);

#endif
