// The floating-point mode of a sweep: round to nearest, no flush to zero, exceptions masked.
#pragma once

#include <stdint.h>

namespace lrcore::cpu {

/// Sets the default mode for its lifetime and puts back what it found, sticky flags included. On a processor whose mode
/// is not known here, the caller's mode stays.
class DefaultFpMode {
 public:
  DefaultFpMode() : found_(read()) { write(default_mode); }
  ~DefaultFpMode() { write(found_); }
  DefaultFpMode(const DefaultFpMode&) = delete;
  DefaultFpMode& operator=(const DefaultFpMode&) = delete;

#if defined(__x86_64__) || defined(__aarch64__)
  static constexpr bool is_known = true;
#else
  static constexpr bool is_known = false;
#endif

 private:
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
  using Mode = int;
  static constexpr Mode default_mode = 0;
  static Mode read() { return 0; }
  static void write(Mode) {}
#endif

  Mode found_;
};

}  // namespace lrcore::cpu
