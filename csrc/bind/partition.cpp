#include "partition.h"

#include <pybind11/pybind11.h>

#include <algorithm>
#include <limits>
#include <map>
#include <tuple>
#include <utility>

namespace lrcore {

namespace py = pybind11;

namespace {

/// A position among ranges that are in order.
template <class Ranges>
class Cursor {
 public:
  explicit Cursor(const Ranges& ranges) : next_(ranges.begin()), end_(ranges.end()) {}

  /// Moves forward to an element.
  void move_to(int64_t element) {
    while (next_ != end_ && next_->end <= element) ++next_;
    element_ = element;
  }
  /// Whether the element is inside a range.
  bool is_inside() const { return next_ != end_ && next_->begin <= element_; }
  /// Returns the end of that range, or the beginning of the next one if the element is in none.
  int64_t until() const {
    if (next_ == end_) return std::numeric_limits<int64_t>::max();
    return is_inside() ? next_->end : next_->begin;
  }
  auto operator->() const { return next_; }

 private:
  typename Ranges::const_iterator next_, end_;
  int64_t element_ = 0;
};

}  // namespace

Partition::Partition(int64_t size, const std::vector<std::vector<Range>>& groups)
    : size_(size), groups_(static_cast<int32_t>(groups.size() + 1)) {
  std::vector<Part> named;
  for (size_t i = 0; i < groups.size(); ++i)
    for (const Range& range : groups[i]) named.push_back({range, static_cast<int32_t>(i + 1), 0});
  std::ranges::sort(named, {}, &Part::begin);
  int64_t end = 0;
  for (const Part& part : named) {
    if (part.begin < end || part.end <= part.begin || part.end > size)
      throw py::value_error("groups: expected ranges inside the parameters that do not overlap");
    if (end < part.begin) parts_.push_back({{end, part.begin}, 0, 0});
    parts_.push_back(part);
    end = part.end;
  }
  if (end < size) parts_.push_back({{end, size}, 0, 0});
  *this = with_counts(0, {}, std::vector<bool>(groups.size() + 1));
}

Partition Partition::with_counts(int64_t step_count, const std::vector<CountedRange>& counts,
                                 const std::vector<bool>& frozen, const std::vector<Range>& idle) const {
  Partition changed = *this;
  changed.parts_.clear();
  changed.rows_.clear();
  changed.segments_.clear();
  std::map<std::tuple<int32_t, int64_t, bool>, int32_t> found;
  const auto add = [&](int64_t begin, int64_t end, int32_t group, int64_t count, bool is_frozen) {
    const auto next = static_cast<int32_t>(changed.rows_.size());
    const auto [entry, is_new] = found.try_emplace({group, count, is_frozen}, next);
    if (is_new) changed.rows_.push_back({group, is_frozen, is_frozen ? count : step_count - count});
    const int32_t row = entry->second;
    if (!changed.parts_.empty() && changed.parts_.back().row == row)
      changed.parts_.back().end = end;
    else
      changed.parts_.push_back({{begin, end}, group, row});
  };
  Cursor counted(counts);
  Cursor resting(idle);
  for (const Part& part : parts_)
    for (int64_t begin = part.begin; begin < part.end;) {
      counted.move_to(begin);
      resting.move_to(begin);
      const int64_t end = std::min({part.end, counted.until(), resting.until()});
      const bool is_frozen = frozen[static_cast<size_t>(part.group)] || resting.is_inside();
      add(begin, end, part.group, counted.is_inside() ? counted->count : step_count, is_frozen);
      begin = end;
    }
  int64_t before = 0;
  for (const Part& part : changed.parts_) {
    if (changed.rows_[static_cast<size_t>(part.row)].is_frozen) continue;
    changed.segments_.push_back({part.begin, part.end, before, part.row});
    before += part.end - part.begin;
  }
  return changed;
}

std::vector<CountedRange> Partition::other_counts(int64_t step_count) const {
  std::vector<CountedRange> others;
  for (const Part& part : parts_) {
    const int64_t count = rows_[static_cast<size_t>(part.row)].count(step_count);
    if (count == step_count) continue;
    if (!others.empty() && others.back().end == part.begin && others.back().count == count)
      others.back().end = part.end;
    else
      others.push_back({part, count});
  }
  return others;
}

std::optional<int64_t> Partition::count_of(size_t group, int64_t step_count) const {
  std::optional<int64_t> count;
  for (const Row& row : rows_) {
    if (static_cast<size_t>(row.group) != group) continue;
    if (count && *count != row.count(step_count)) return std::nullopt;
    count = row.count(step_count);
  }
  return count ? count : step_count;
}

}  // namespace lrcore
