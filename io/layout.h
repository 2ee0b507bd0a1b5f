/* The same checkpoint under other names: LDM (SGM, BFL) names and cuts to diffusers' and back, as a
 * view that reads from the source.
 *
 *   ck_reader *view;
 *   ck_layout_report report;
 *   CK_TRY(ck_layout_convert(source, CK_LAYOUT_DIFFUSERS, CK_UNUSED_DROP, &view, &report, err));
 *
 * Whole files are converted component by component: the UNet under "model.diffusion_model." goes to
 * "unet." and so on, as the folders of a diffusers model are called. A component that stands alone
 * keeps its empty prefix. Components that are in the wanted layout already only get its prefix.
 * Bytes never change; they are cut, joined and, for OpenCLIP's projection, transposed.
 *
 * What is no weight of a model is treated so:
 *   markers (v_pred, ztsnr, ...)                    kept as they are
 *   averaged weights, schedules, safety checker,    go the way that ck_unused says, unless the file
 *   weights the other side's programs do not load   is in the wanted layout already: then kept
 *   anything else                                   an error that names it
 * The mapping is exact both ways: with CK_UNUSED_KEEP, there and back gives the same tensors.
 */
#ifndef CK_LAYOUT_H
#define CK_LAYOUT_H

#include "io/anatomy.h"

typedef enum ck_unused {
    /* Leave out what the target's programs do not load (the last layer and the projection of SD2's
     * text encoder, logit_scale, position_ids); on the way back make OpenCLIP's logit_scale, always
     * ln 100 in published models. SD2's last layer cannot be made: that model's programs load it,
     * but do not use it. */
    CK_UNUSED_DROP,
    /* Leave out and make nothing. Programs warn about names they do not know. */
    CK_UNUSED_KEEP,
} ck_unused;

/* Counts of tensors, of the source except for `made`. */
typedef struct ck_layout_report {
    size_t kept;      /* in the view, perhaps under another name */
    size_t converted; /* cut, joined, swapped or transposed */
    size_t dropped, made;
    const char *first_dropped; /* name, owned by the source; NULL: none */
} ck_layout_report;

/* A view of source in the target layout, CK_LAYOUT_ORIGINAL or CK_LAYOUT_DIFFUSERS. source is
 * borrowed (see ck_view_own); its metadata come along. report may be NULL. CK_INPUT when a tensor
 * has no place in the layout, or its shape or type does not fit. */
ck_status ck_layout_convert(const ck_reader *source, ck_layout target, ck_unused unused,
                            ck_reader **view, ck_layout_report *report, ck_error *err);

/* A view of source with names, prefixes and cuts as `model` has them, for mixing the two.
 * Components that model does not have come in its layout. What is not recognised keeps its name. */
ck_status ck_layout_like(const ck_reader *source, const ck_reader *model, ck_reader **view,
                         ck_layout_report *report, ck_error *err);

#endif
