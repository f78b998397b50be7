// A line of the registry.
#pragma once

namespace lrcore::rules {

/// A rule and its public name.
template <class R>
struct Entry {
  using Rule = R;
  const char* name;
};

}  // namespace lrcore::rules
