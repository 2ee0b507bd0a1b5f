/* Heads on the features of a network that tell data from samples: a discriminator that needs to
 * learn only little, as the network knows much (Sauer et al., 2024: LADD).
 *
 *   ck_network judge = d->teacher;
 *   ck_taps taps = {0};
 *   judge.taps = &taps;
 *   ... ask judge ...
 *   ck_node loss = ck_heads_hinge(g, heads, &taps, +1);
 */
#ifndef CK_HEADS_H
#define CK_HEADS_H

#include "distill/models/unet.h"

/* On each feature of the network's encoder a head (3 x 3 convolution, group norm, SiLU, 1 x 1
 * convolution; of features without places two linear layers) whose answer, for each place, is high
 * for data. The mean over places, samples and heads of max(0, 1 + sign * answer): -1 is what the
 * heads lose on data, +1 on samples. params: their weights (ck_params_new). */
ck_node ck_heads_hinge(ck_graph *g, ck_params *params, const ck_taps *taps, double sign);
/* The mean of the answers: what samples are to raise. */
ck_node ck_heads_mean(ck_graph *g, ck_params *params, const ck_taps *taps);

#endif
