// Sums of the elements of arrays.
#pragma once

#include <vector>

#include "array.h"

namespace lrcore {

/// Returns the sum of the products of two arrays. Waits for a device.
double dot(py::handle x, py::handle y);

/// Returns the Euclidean norm of an array. Waits for a device.
double norm(py::handle x);

/// Returns the norm of each array. Waits for a device. The arrays belong to one library.
std::vector<double> norms(const py::sequence& arrays);

}  // namespace lrcore
