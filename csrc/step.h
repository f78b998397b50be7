// Plain structures shared by all modules: the parts of a step, and the type of a sweep.
#pragma once

#include <stdint.h>

namespace lrcore {

inline constexpr int max_states = 3;
inline constexpr int max_hypers = 4;
inline constexpr int max_constants = 8;

/// A short list of names, in order.
struct Names {
  const char* text[4] = {};
  int count = 0;

  constexpr Names() = default;
  template <class... T>
  constexpr explicit Names(T... names) : text{names...}, count(sizeof...(T)) {}

  friend constexpr Names operator+(Names left, const Names& right) {
    for (int i = 0; i < right.count; ++i) left.text[left.count++] = right.text[i];
    return left;
  }
};

/// A point in training: the number of the step, and its learning rate.
struct Instant {
  double t;  // 1, 2, 3, ...; exact up to 2^53
  double lr;
};

/// An intermediate result in the computation of the step constants at `t`, from which a later step can continue. It
/// saves time and never changes a result.
struct Memo {
  double key[2] = {};
  double t = 0;
  double value = 1;
};

/// Constants of the stages around every rule: scale, coupled decay, decoupled or independent decay, store.
struct Stages {
  float gscale;
  float wd;  // 0 without weight decay, and with decoupled or independent decay
  float decay_factor;
  uint32_t flush_mask;  // a state with none of these bits set is stored as 0
};

/// The values that change from step to step: the constants of the stages, and the bytes of the rule object.
struct alignas(16) Constants {
  Stages stages;
  float rule[max_constants];
};

/// Whether weight decay is added to the gradient.
constexpr bool is_coupled(const Constants& constants) { return constants.stages.wd != 0; }

/// The type of an array's elements.
enum class Format : int32_t { float32 };

/// A flat array that a step reads or updates.
struct Stream {
  void* data;
  Format format;
};

/// Returns an array whose element `begin` is the first one of `part`.
inline Stream shifted(const Stream& part, int64_t begin) {
  const auto bytes = static_cast<uintptr_t>(begin) * sizeof(float);
  return {.data = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(part.data) - bytes), .format = part.format};
}

/// Returns the address of the first element, of type `Element`. It is a template because Clang rejects a constexpr
/// function that can never be a constant expression.
template <class Element>
constexpr Element* elements(const Stream& stream) {
  return static_cast<Element*>(stream.data);
}

/// The arrays of one step, of equal length, and what the step does apart from the rule.
struct Step {
  Stream p;
  Stream g;  // only read, unless `zeroes_grads` is true
  Stream states[max_states];
  Stream average;   // of the parameters; no data if there is none
  int64_t origin;   // the index of the first element, if the arrays are a slice of larger ones
  float averaging;  // the fraction of the distance to the parameters by which a step moves the average
  bool zeroes_grads;

  /// Whether the step does more than its rule.
  constexpr bool has_extras() const { return average.data != nullptr || zeroes_grads; }
};

/// Updates the elements [begin, end).
using Sweep = void (*)(const Step& step, const Constants& constants, int64_t begin, int64_t end);

}  // namespace lrcore
