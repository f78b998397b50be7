// Counts the instructions of every rule's sweeps with callgrind, for bench/instructions.py: those that only take a
// step, and "extras", which also average the parameters and zero the gradients. This program contains neither Python
// nor a thread pool, so the counts are those of the sweeps alone and do not vary.
//
// AVX-512 is omitted because valgrind does not support it.
#if !__has_include(<valgrind/callgrind.h>)
#error "valgrind/callgrind.h is missing: install valgrind with its headers"
#endif
#include <stdint.h>
#include <stdio.h>
#include <valgrind/callgrind.h>

#include <string>

#include "../csrc/constants.h"
#include "../csrc/cpu/backends.h"

namespace lrcore {
namespace {

struct Counted {
  const char* name;
  const cpu::SweepTable& table;
};

constexpr Counted backends[] = {{"avx2", cpu::avx2_sweeps}, {"portable", cpu::portable_sweeps}};

// 1024 elements fill whole lanes, so the loop dominates. 135 elements fill 16 AVX2 lanes and leave a remainder
// of seven, so the remainder matters.
constexpr int64_t sizes[] = {1024, 135};
constexpr int64_t largest = 1024;

// Every array begins at the start of a cache line, whatever addresses the system chooses.
alignas(64) float params[largest];
alignas(64) float grads[largest];
alignas(64) float states[max_states][largest];
alignas(64) float average[largest];

constexpr double half[max_hypers] = {0.5, 0.5, 0.5, 0.5};  // a valid value for every hyperparameter

/// Fills the arrays with ordinary numbers of both signs, and the states with 0, as before the first step.
void fill() {
  for (int64_t i = 0; i < largest; ++i) {
    const float x = 0.5f + static_cast<float>(i % 7) / 8;
    params[i] = x;
    grads[i] = i % 2 ? x : -x;
    for (auto& state : states) state[i] = 0;
    average[i] = x;
  }
}

void count(Sweep sweep, const Step& step, const Constants& constants, int64_t n, const std::string& label) {
  fill();
  sweep(step, constants, 0, n);  // the first call may do additional work
  CALLGRIND_ZERO_STATS;
  CALLGRIND_TOGGLE_COLLECT;
  sweep(step, constants, 0, n);
  CALLGRIND_TOGGLE_COLLECT;
  CALLGRIND_DUMP_STATS_AT(label.c_str());
}

void count_all() {
  for (const Counted& backend : backends)
    for (size_t rule = 0; rule < rule_infos().size(); ++rule)
      for (const bool coupled : {false, true})
        for (const bool has_extras : {false, true}) {
          const RuleInfo& info = rule_infos()[rule];
          const auto stream = [](float* data) { return Stream{.data = data, .format = Format::float32}; };
          const Step step{.p = stream(params),
                          .g = stream(grads),
                          .states = {stream(states[0]), stream(states[1]), stream(states[2])},
                          .average = stream(has_extras ? average : nullptr),
                          .origin = 0,
                          .averaging = 0.5f,
                          .zeroes_grads = has_extras};
          Memo memo;
          Constants constants{};
          constants.stages = stage_constants(0.01, coupled ? 0.01 : 0, Decay::l2, 1, false, info.flush_mask(half));
          info.constants_at(half, {.t = 10, .lr = 0.01}, memo, constants.rule);
          for (const int64_t n : sizes) {
            const std::string kind = std::string(coupled ? " coupled" : "") + (has_extras ? " extras " : " ");
            count(backend.table.sweeps[rule][coupled][has_extras], step, constants, n,
                  std::string(backend.name) + " " + info.name + kind + std::to_string(n));
          }
        }
}

}  // namespace
}  // namespace lrcore

int main() {
  if (!__builtin_cpu_supports("avx2")) {
    fputs("this CPU has no AVX2, and valgrind cannot emulate it\n", stderr);
    return 1;
  }
  puts(LRCORE_COMPILER);  // counts are recorded per compiler
  lrcore::count_all();
}
