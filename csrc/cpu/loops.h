// The pragma before a loop over elements, for each compiler.
#pragma once

/// The iterations of the loop that follows are independent: the boundary has refused overlapping buffers.
#if defined(__clang__)
#define LRCORE_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define LRCORE_INDEPENDENT _Pragma("GCC ivdep")
#endif
