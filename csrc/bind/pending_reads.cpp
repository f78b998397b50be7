#include "pending_reads.h"

#include "gil.h"

namespace lrcore {

void PendingReads::add(const cuda::Api* api, Array&& array, const CudaStream& stream) {
  if (api == nullptr || stream.dlpack_stream == -1) return;
  const CurrentDevice current(*api, array.device());
  void* event = nullptr;
  check_cuda(*api, api->record_event(&event, stream.handle), "recording the end of the step");
  reads_.push_back({std::move(array), api, event});
}

std::vector<Array> PendingReads::remove_completed() {
  std::vector<Array> arrays;
  std::erase_if(reads_, [&](Read& read) {
    int completed = 0;
    if (read.api->query_event(read.event, &completed) == 0 && completed == 0) return false;
    read.api->destroy_event(read.event);
    arrays.push_back(std::move(read.array));
    return true;
  });
  return arrays;
}

PendingReads::~PendingReads() {
  const GilRelease unlocked;
  for (const Read& read : reads_) {
    read.api->wait_for_event(read.event);
    read.api->destroy_event(read.event);
  }
}

}  // namespace lrcore
