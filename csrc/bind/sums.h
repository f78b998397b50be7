// Sums of the elements of arrays.
#pragma once

#include <vector>

#include "array.h"

namespace lrcore {

/// Returns the sum of the products of two arrays. Waits for a device.
double dot(py::handle x, py::handle y);

/// Returns the sum of the squares of each array. Waits for a device. The arrays belong to one library.
std::vector<double> sums_of_squares(const py::sequence& arrays);

}  // namespace lrcore
