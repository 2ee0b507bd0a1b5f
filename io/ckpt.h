/* PyTorch checkpoints (.ckpt, .pt, .pth, .bin) are read through reader.h; this is what only they
 * can tell. */
#ifndef CK_CKPT_H
#define CK_CKPT_H

#include "io/reader.h"

/* How many entries beside the tensors the file has: epochs, optimiser states and the like, which
 * were left out. 0 for a reader of another format. */
size_t ck_ckpt_skipped(const ck_reader *r);

#endif
