#include "loans.h"

#include "gil.h"

namespace lrcore {

void Loans::take(const cuda::Api& api, Array&& array, uintptr_t stream) {
  void* mark = nullptr;
  check_cuda(api, api.mark(&mark, stream), "marking the end of the step");
  loans_.push_back({std::move(array), &api, mark});
}

std::vector<Array> Loans::returned() {
  std::vector<Array> arrays;
  std::erase_if(loans_, [&](Loan& loan) {
    int passed = 0;
    if (loan.api->is_passed(loan.mark, &passed) == 0 && passed == 0) return false;
    loan.api->unmark(loan.mark);
    arrays.push_back(std::move(loan.array));
    return true;
  });
  return arrays;
}

Loans::~Loans() {
  const GilRelease unlocked;
  for (const Loan& loan : loans_) {
    loan.api->wait(loan.mark);
    loan.api->unmark(loan.mark);
  }
}

}  // namespace lrcore
