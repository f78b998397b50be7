// The thread pool of the sweeps.
#pragma once

#include <cstdint>

namespace lrcore::pool {

/// Work on the elements [begin, end).
using Task = void (*)(const void* context, int64_t begin, int64_t end);

/// Threads that a large sweep uses, the caller included.
int threads();
void set_threads(int count);

/// The CPUs that this process may use: its affinity mask, within the quota of its control group.
int default_threads();

/// Runs the task over [0, n) in contiguous slices and returns when all are done. Serial when n is small, and when the
/// pool is busy with another caller's work. Survives fork: a child starts with a pool of its own.
void parallel_for(int64_t n, Task task, const void* context);

/// Makes fork safe; called once when the module is made.
void prepare_for_forks();

/// Changes in a forked child, which has none of its parent's threads.
int generation();

}  // namespace lrcore::pool
