// The thread pool of the sweeps.
#pragma once

#include <cstdint>

namespace lrcore::pool {

/// Work on the elements [begin, end).
using Task = void (*)(const void* context, int64_t begin, int64_t end);

/// Returns the number of threads that a large sweep uses, including the caller.
int threads();
void set_threads(int count);

/// Returns the number of CPUs that this process may use: those in its affinity mask, limited by the quota of its
/// control group.
int default_threads();

/// Runs the task over [0, n) in contiguous slices and returns when all are done. Each number stands for `elements`
/// elements of an array. Runs serially if these are few or if the pool is busy with another caller's work. Survives
/// fork: a child starts with its own pool.
void parallel_for(int64_t n, Task task, const void* context, int64_t elements = 1);

/// Makes fork safe; called once when the module is created.
void prepare_for_forks();

/// Returns a number that changes in a forked child, which has none of its parent's threads.
int generation();

}  // namespace lrcore::pool
