// The floating-point mode of a sweep: round to nearest, no flush to zero, exceptions masked.
#pragma once

#include <stdint.h>

#include <type_traits>

namespace lrcore::cpu {

/// Sets the default mode for the lifetime of this object, then restores the previous mode (on x86-64, including the
/// sticky exception flags). Does nothing on processors other than x86-64 and aarch64.
class DefaultFpMode {
#if defined(__x86_64__)
  using Mode = uint32_t;
  static constexpr Mode default_mode = 0x1F80;  // MXCSR
  static Mode read() { return __builtin_ia32_stmxcsr(); }
  static void write(Mode mode) { __builtin_ia32_ldmxcsr(mode); }
#elif defined(__aarch64__)
  using Mode = uint64_t;
  static constexpr Mode default_mode = 0;  // FPCR
  static Mode read() {
    Mode mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void write(Mode mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }
#else
  struct Mode {};
  static constexpr Mode default_mode{};
  static Mode read() { return {}; }
  static void write(Mode) {}
#endif

 public:
  static constexpr bool is_known = !std::is_empty_v<Mode>;

  DefaultFpMode() : found_(read()) { write(default_mode); }
  ~DefaultFpMode() { write(found_); }
  DefaultFpMode(const DefaultFpMode&) = delete;
  DefaultFpMode& operator=(const DefaultFpMode&) = delete;

 private:
  Mode found_;
};

}  // namespace lrcore::cpu
