// Conversion of arguments that are Python numbers, and the text of error messages.
#pragma once

#include <pybind11/pybind11.h>

#include <charconv>
#include <concepts>
#include <string>
#include <string_view>

namespace lrcore {

namespace py = pybind11;

/// Returns the digits of an integer in the given base.
template <std::integral Integer>
std::string digits(Integer value, int base = 10) {
  char buffer[66];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value, base).ptr};
}

/// Joins the parts, which are integers and strings, into one string.
template <class... Part>
std::string text(const Part&... parts) {
  std::string out;
  const auto append = [&](const auto& part) {
    if constexpr (std::integral<std::remove_cvref_t<decltype(part)>>)
      out += digits(part);
    else
      out += std::string_view(part);
  };
  (append(parts), ...);
  return out;
}

/// Returns a number as Python prints it.
inline std::string number(double value) { return py::str(py::float_(value)); }

/// Returns the name of an object's type; "None" for None.
inline std::string type_name(py::handle object) {
  return object.is_none() ? "None" : py::str(py::type::of(object).attr("__qualname__")).cast<std::string>();
}

/// Returns a real number as a double. Throws TypeError or ValueError, naming the argument, for anything else.
double to_double(py::handle object, const char* name);

/// Returns an integer in [least, most]. Throws TypeError or ValueError, naming the argument, for anything else.
int64_t to_integer(py::handle object, const char* name, int64_t least, int64_t most);

/// Returns a bool of Python or NumPy. Throws TypeError, naming the argument, for anything else.
bool to_flag(py::handle object, const char* name);

}  // namespace lrcore
