/* Lets a loop over elements be compiled once for each instruction set; the program takes the best
 * that the processor has. The bits are the same: nothing is fused or reordered, only done to more
 * elements at once. */
#ifndef CK_VECTORS_H
#define CK_VECTORS_H

/* (ThreadSanitizer is not ready yet when the choice is made.) */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CK_VECTORS
#endif
#endif

#if !defined(CK_VECTORS) && defined(__x86_64__) && defined(__ELF__)
#define CK_VECTORS __attribute__((target_clones("avx512f", "avx2", "default")))
#elif !defined(CK_VECTORS)
#define CK_VECTORS
#endif

#endif
