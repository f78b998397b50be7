#include "device_sums.h"

#include <algorithm>

#include "gil.h"

namespace lrcore {
namespace {

template <class Element>
int64_t bytes_of(const std::vector<Element>& elements) {
  return std::ssize(elements) * static_cast<int64_t>(sizeof(Element));
}

int64_t bytes_of(const sums::Additions& additions) {
  return additions.numbers * static_cast<int64_t>(sizeof(double)) +
         std::ssize(additions.leaves) * static_cast<int64_t>(sizeof(cuda::Leaf)) + bytes_of(additions.additions) +
         bytes_of(additions.phases);
}

}  // namespace

DeviceSums::DeviceSums(const cuda::Api& api, Device device, const sums::Units& units, std::span<const Segment> segments)
    : api_(api),
      segments_(std::ssize(segments)),
      additions_(units.additions()),
      memory_(api, device, bytes_of(additions_)),
      numbers_(static_cast<double*>(memory_.data())),
      leaves_(reinterpret_cast<cuda::Leaf*>(numbers_ + additions_.numbers)),
      list_(reinterpret_cast<sums::Addition*>(leaves_ + additions_.leaves.size())),
      phases_(reinterpret_cast<int64_t*>(list_ + additions_.additions.size())) {
  std::vector<cuda::Leaf> leaves;
  size_t unit = 0;
  int64_t segment = 0;
  for (const int64_t to : additions_.leaves) {
    const auto [begin, end] = units.leaf(std::ssize(leaves), unit);
    while (segment < segments_ && segments[static_cast<size_t>(segment)].end <= begin) ++segment;
    leaves.push_back({.begin = begin, .end = end, .segment = segment, .to = to});
  }
  const std::vector<double> zeros(static_cast<size_t>(additions_.numbers));
  const GilRelease unlocked;
  const CurrentDevice current(api_, device);
  constexpr char tried[] = "writing the tables of the norm";
  copy_to_device(api_, numbers_, zeros, tried);
  copy_to_device(api_, leaves_, leaves, tried);
  copy_to_device(api_, list_, additions_.additions, tried);
  copy_to_device(api_, phases_, additions_.phases, tried);
}

void DeviceSums::measure(const cuda::Job& job, uintptr_t stream) const {
  const cuda::Measurement launch{.job = job,
                                 .segments = segments_,
                                 .leaves = leaves_,
                                 .leaf_count = std::ssize(additions_.leaves),
                                 .numbers = numbers_};
  check_cuda(api_, api_.measure(&launch, stream), "launching the norm");
}

void DeviceSums::enter(cuda::Judgement& judgement) const {
  judgement.additions = list_;
  judgement.phases = phases_;
  judgement.phase_count = std::ssize(additions_.phases);
  judgement.numbers = numbers_;
  judgement.total = additions_.total;
}

void DeviceSums::read(std::span<double> leaf_sums) const {
  std::vector<double> numbers(static_cast<size_t>(additions_.numbers));
  check_cuda(api_, api_.copy(numbers.data(), numbers_, bytes_of(numbers)), "copying the sums");
  for (size_t k = 0; k < leaf_sums.size(); ++k) leaf_sums[k] = numbers[static_cast<size_t>(additions_.leaves[k])];
}

}  // namespace lrcore
