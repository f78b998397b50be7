// The threads of an OpenMP runtime that another library, such as PyTorch, has brought into the process.
#pragma once

namespace lrcore::openmp {

/// One part of the work.
using Part = void (*)(const void* context, int index);

/// Looks for a runtime whose functions are visible in the whole process. Returns whether there is one.
bool join();

/// Undoes `join`, for a forked child, which has none of the runtime's threads.
void leave();

/// Returns the number of threads that `run` would use, or 0 if it cannot be called: if no runtime has been joined, and
/// in other threads than the main thread, because the runtime would start new threads for each of them.
int threads();

/// Runs the parts 0 to count - 1 on the threads of the runtime and returns when all are done. After PyTorch has used
/// these threads, they spin for some milliseconds. Until then they start at once, and threads of our own would get only
/// a share of their cores.
void run(int count, Part part, const void* context);

}  // namespace lrcore::openmp
