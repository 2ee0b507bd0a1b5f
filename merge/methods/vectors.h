/* Lets a loop over elements be compiled once for each instruction set; the program takes the best
 * that the processor has. The bits are the same: nothing is fused or reordered, only done to more
 * elements at once. */
#ifndef CK_VECTORS_H
#define CK_VECTORS_H

/* (Clang gives the functions that choose global names, which clash from file to file.) */
#if defined(__x86_64__) && defined(__ELF__) && !defined(__clang__)
#define CK_VECTORS __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CK_VECTORS
#endif

#endif
