// The method `step`, in terms of CPython: pybind11's dispatch would take longer than the step of a small array.
#pragma once

#include "stepper.h"

namespace lrcore {

/// Gives the class its method `step`.
void add_step_method(py::class_<Stepper>& stepper);

}  // namespace lrcore
