// Arrays that a device may still be reading.
#pragma once

#include <vector>

#include "array.h"

namespace lrcore {

/// Holds gradients that another library made and may give away as soon as it is let, until the device has read them.
class Loans {
 public:
  Loans() = default;
  ~Loans();
  Loans(const Loans&) = delete;
  Loans& operator=(const Loans&) = delete;

  /// Holds `array` until `stream` has done all that it has been given. The array's device is current.
  void take(const cuda::Api& api, Array&& array, uintptr_t stream);
  /// Gives back what has been read. What it gives is let go by the caller, who needs the GIL for it.
  std::vector<Array> returned();

 private:
  struct Loan {
    Array array;
    const cuda::Api* api;
    void* mark;
  };
  std::vector<Loan> loans_;
};

}  // namespace lrcore
