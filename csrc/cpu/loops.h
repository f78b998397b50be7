// The pragma before a loop over elements, for each compiler.
#pragma once

/// Declares the iterations of the next loop independent. They are, because overlapping buffers are refused earlier.
#if defined(__clang__)
#define LRCORE_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define LRCORE_INDEPENDENT _Pragma("GCC ivdep")
#endif
