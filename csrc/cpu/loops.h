// The pragma before a loop over elements, for each compiler.
#pragma once

/// Declares that the iterations of the next loop are independent, which is true because overlapping buffers are refused
/// earlier.
#if defined(__clang__)
#define LRCORE_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#define LRCORE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define LRCORE_INDEPENDENT _Pragma("GCC ivdep")
#define LRCORE_UNROLL _Pragma("GCC unroll 32")
#endif
