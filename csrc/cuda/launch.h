// The launches behind the functions of the module's table. Each function returns 0 or an error of the CUDA runtime.
#pragma once

#include "job.h"

namespace lrcore::cuda {

int prepare(int rule);
int launch(int rule, const Job* job, uintptr_t stream);
int write(void* to, const void* from, int64_t words, uintptr_t stream);
int measure(const Measurement* launch, uintptr_t stream);
int judge(const Judgement* launch, uintptr_t stream);
int advance(int64_t* step_count, const Decision* decision, uintptr_t stream);
int launch_leaf_sums(const float* x, const float* y, int64_t n, double* sums, uintptr_t stream);
int start_fill(float* memory, float value, int64_t n);
int launch_stream_bound(const Step* step, int states, int64_t n, uintptr_t stream);

}  // namespace lrcore::cuda
