// The number of CPUs that this process may use.
#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "pool.h"

namespace lrcore::pool {
namespace {

int affinity_cpus() {
#if defined(__linux__)
  // The mask of a large machine can be longer than cpu_set_t; the call fails with EINVAL if it does not fit.
  for (size_t capacity = CPU_SETSIZE; capacity <= (size_t{1} << 20); capacity *= 2) {
    std::vector<cpu_set_t> mask(CPU_ALLOC_SIZE(capacity) / sizeof(cpu_set_t) + 1);
    const size_t bytes = mask.size() * sizeof(cpu_set_t);
    if (sched_getaffinity(0, bytes, mask.data()) == 0) return std::max(1, CPU_COUNT_S(bytes, mask.data()));
  }
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

/// Returns the number of CPUs that a quota of `quota` per `period` corresponds to, or 0 if there is no quota.
int quota_cpus(double quota, double period) {
  return quota > 0 && period > 0 ? std::max(1, static_cast<int>(std::ceil(quota / period))) : 0;
}

/// Returns the smallest quota, in CPUs, in cpu.max of this process's control group (version 2) and of all groups above
/// it, or 0 if there is no quota.
int cgroup2_cpus() {
  std::ifstream groups("/proc/self/cgroup");
  int smallest = 0;
  for (std::string line; std::getline(groups, line);) {
    if (line.rfind("0::/", 0) != 0) continue;
    for (std::string path = line.substr(3);; path.erase(path.rfind('/'))) {
      std::ifstream file("/sys/fs/cgroup" + path + "/cpu.max");
      std::string quota;
      double period = 0;
      if (file >> quota >> period && quota != "max") {
        const int cpus = quota_cpus(std::stod(quota), period);
        if (cpus > 0) smallest = smallest == 0 ? cpus : std::min(smallest, cpus);
      }
      if (path.empty() || path.rfind('/') == std::string::npos) break;
    }
  }
  return smallest;
}

int cgroup1_cpus() {
  double quota = 0, period = 0;
  std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> quota;
  std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> period;
  return quota_cpus(quota, period);
}

}  // namespace

int default_threads() {
  int cpus = affinity_cpus();
  for (const int quota : {cgroup2_cpus(), cgroup1_cpus()})
    if (quota > 0) cpus = std::min(cpus, quota);
  return cpus;
}

}  // namespace lrcore::pool
