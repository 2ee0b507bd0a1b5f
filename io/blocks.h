/* The blocks of a model, in the order in which they run, and which block a tensor belongs to: what
 * merges by block count in.
 *
 *   ck_blocks b;
 *   CK_TRY(ck_blocks_of(reader, &b, err));
 *   b.blocks[b.block_of[i]].name               "IN04" of tensor i
 *   b.original[i]                              its name in the original layout, without prefix
 *   CK_TRY(ck_blocks_select(&b, "IN00-IN05 M00 vae", chosen, err));
 *   ck_blocks_free(&b);
 *
 * The first b.depth blocks are the denoiser's, in either layout of the model (counts are those of
 * the published models; a model of unusual depth has as many as it has):
 *   SD1, SD2     IN00-IN11, M00, OUT00-OUT11      as merge block weighted has them; the time and
 *   SDXL         IN00-IN08, M00, OUT00-OUT08      label embeddings are IN00's, out.* the last's
 *   SD3, SD3.5   IN, J00-J23 (-J37), OUT          embedders, joint blocks, final layer
 *   FLUX         IN, D00-D18, S00-S37, OUT        double and single blocks
 * After them comes one for every other component, by ck_part_name: clip_l, vae, ...; together they
 * are BASE. Tensors of the denoiser that no row of the table knows are BASE, too.
 */
#ifndef CK_BLOCKS_H
#define CK_BLOCKS_H

#include "io/anatomy.h"
#include "io/arena.h"

enum { CK_MAX_BLOCKS = 200, CK_MAX_BLOCKS_TEXT = 512 };

typedef struct ck_block {
    char name[16];
    size_t family; /* blocks of the same kind ("IN") have the same number */
    ck_part part;
    size_t tensors;
    uint64_t elements;
} ck_block;

typedef struct ck_blocks {
    ck_block blocks[CK_MAX_BLOCKS];
    size_t count, depth;
    ck_architecture_id architecture;
    const char *path;        /* of the model, borrowed */
    unsigned char *block_of; /* for each tensor of the reader */
    const char **original;
    ck_arena arena;
} ck_blocks;

/* r is borrowed. Never fails because a file is strange; CK_MEMORY, and what ck_anatomy_of has. */
ck_status ck_blocks_of(const ck_reader *r, ck_blocks *b, ck_error *err);
void ck_blocks_free(ck_blocks *b); /* a zeroed one is allowed */

/* Sets chosen[i] for the blocks that a text names: words separated by spaces or commas, letter case
 * apart. A word is a block ("IN04"), a range ("IN00-IN05"), a kind of block ("OUT"), "MID" for M00,
 * a component ("unet" or "transformer", "vae", "clip_l", ...; one that the model lacks chooses
 * nothing), "clip" for all text encoders, or "BASE" for everything but the denoiser. "NOT" as the
 * first word turns the choice round; an empty text chooses all. CK_USAGE for any other word, with
 * the blocks that there are. */
ck_status ck_blocks_select(const ck_blocks *b, const char *text, bool chosen[CK_MAX_BLOCKS],
                           ck_error *err);

/* "IN00-IN08, M00, OUT00-OUT08" to buf: the denoiser's blocks. Returns buf. */
const char *ck_blocks_text(const ck_blocks *b, char buf[CK_MAX_BLOCKS_TEXT]);

#endif
