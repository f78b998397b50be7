// The method `step`, defined through CPython's C API: pybind11's dispatch would take longer than a step of a small
// array.
#pragma once

#include "stepper.h"

namespace lrcore {

/// Adds the method `step` to the class.
void add_step_method(py::class_<Stepper>& stepper);

}  // namespace lrcore
