/* UNROLLED for (...): a loop of at most 16 turns, known when it is compiled, that is written out,
 * so that what it counts can be in registers. */
#ifndef CK_UNROLLED_H
#define CK_UNROLLED_H

#if defined(__clang__)
#define UNROLLED _Pragma("unroll")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

#endif
