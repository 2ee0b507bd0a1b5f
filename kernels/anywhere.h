/* What small functions begin with that run on processors and, compiled by nvcc, on cards. */
#ifndef CK_ANYWHERE_H
#define CK_ANYWHERE_H

#ifdef __CUDACC__
#define CK_ANYWHERE static __host__ __device__ __forceinline__
#else
#define CK_ANYWHERE static inline
#endif

#endif
