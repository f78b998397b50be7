// The kernels, and their launches.
#include <string.h>

#include "guard.h"
#include "kernels.h"
#include "launch.h"

namespace lrcore::cuda {
namespace {

/// Global memory. The compiler is told so, because it cannot infer it for addresses that are read from memory. A Vec4
/// is stored by one explicit instruction, because the compiler would split some of these stores.
struct Global {
  static __device__ Vec4 load(const Vec4* chunk) {
    __builtin_assume(__isGlobal(chunk));
    const float4 x = *reinterpret_cast<const float4*>(chunk);
    return {x.x, x.y, x.z, x.w};
  }
  static __device__ void store(Vec4* chunk, const Vec4& from) {
    __stwb(reinterpret_cast<float4*>(chunk), make_float4(from.x[0], from.x[1], from.x[2], from.x[3]));
  }
  static __device__ Vec1 load(const Vec1* chunk) {
    __builtin_assume(__isGlobal(chunk));
    return *chunk;
  }
  static __device__ void store(Vec1* chunk, const Vec1& from) { *chunk = from; }
};

/// Lets the next kernel start while this one is still running, if the next kernel was launched with programmatic stream
/// serialization (compute capability 9.0 and later). The next kernel must then wait for the end of this one.
__device__ void let_next_come() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

__device__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// The number of blocks that must fit on a multiprocessor. This limits the compiler to 80 registers per thread; Adam
/// uses 47.
constexpr int resident_blocks = 3;

template <class Chunk, class Rule, Form form>
__global__ void __launch_bounds__(block_threads, resident_blocks) sweep_kernel(const __grid_constant__ Job job) {
  let_next_come();
  run_thread<Global, Chunk, Rule, form>(job, blockIdx.x, static_cast<int>(threadIdx.x));
}

/// Words as an argument of a kernel. All arguments of a kernel may take 4 KB together.
struct Words {
  static constexpr int most = 250;
  uint4 word[most];
};

__global__ void __launch_bounds__(block_threads)
    write_kernel(uint4* to, const __grid_constant__ Words words, int count) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < count) to[i] = words.word[i];
}

__global__ void advance_kernel(int64_t* step_count, const Decision* decision) {
  wait_for_previous();
  if (decision == nullptr || decision->is_skipped == 0) *step_count += 1;
}

/// Returns the sum of the partial sums of a warp's threads in thread 0. They are added in pairs, as `add_partials`
/// does.
__device__ double warp_sum(double sum) {
  for (int half = warp_threads / 2; half > 0; half /= 2) sum = sum + __shfl_down_sync(~0u, sum, half);
  return sum;
}

__global__ void __launch_bounds__(block_threads)
    leaf_sums_kernel(const float* x, const float* y, int64_t n, double* sums) {
  const int64_t leaf = (int64_t{blockIdx.x} * block_threads + threadIdx.x) / warp_threads;
  if (leaf >= sums::leaves_of(n)) return;
  const int thread = static_cast<int>(threadIdx.x) % warp_threads;
  const auto term = [=](int64_t i) {
    __builtin_assume(__isGlobal(x) && __isGlobal(y));
    return double{x[i]} * double{y[i]};
  };
  const int64_t first = leaf * sums::leaf_size;
  const int64_t end = first + sums::leaf_size < n ? first + sums::leaf_size : n;
  const double sum = warp_sum(partial_sum(0, term, first, end, thread));
  if (thread == 0) sums[leaf] = sum;
}

__global__ void __launch_bounds__(block_threads) measure_kernel(const __grid_constant__ Measurement launch) {
  const int64_t k = (int64_t{blockIdx.x} * block_threads + threadIdx.x) / warp_threads;
  if (k >= launch.leaf_count) return;
  const int thread = static_cast<int>(threadIdx.x) % warp_threads;
  const Leaf leaf = launch.leaves[k];
  const auto load = [](const float* element) {
    __builtin_assume(__isGlobal(element));
    return *element;
  };
  const double sum = warp_sum(measured(launch, leaf, thread, load));
  if (thread == 0) launch.numbers[leaf.to] = sum;
}

/// The only block adds up in phases, one addition per warp at a time.
constexpr int judge_threads = 1024;

__global__ void __launch_bounds__(judge_threads) judge_kernel(const __grid_constant__ Judgement launch) {
  const int thread = static_cast<int>(threadIdx.x) % warp_threads;
  int64_t begin = 0;
  for (int64_t phase = 0; phase < launch.phase_count; ++phase) {
    const int64_t end = launch.phases[phase];
    for (int64_t k = begin + threadIdx.x / warp_threads; k < end; k += judge_threads / warp_threads) {
      const sums::Addition addition = launch.additions[k];
      const double sum = warp_sum(added(launch, addition, thread));
      if (thread == 0) launch.numbers[addition.to] = sum;
    }
    __syncthreads();
    begin = end;
  }
  if (threadIdx.x == 0) decide(launch, [](double x) { return __dsqrt_rn(x); });
}

__global__ void __launch_bounds__(block_threads) fill_kernel(float* memory, float value, int64_t n) {
  const int64_t i = int64_t{blockIdx.x} * block_threads + threadIdx.x;
  if (i < n) memory[i] = value;
}

/// p = p + g, and s = s + g for each state, in whole vectors of four. It takes as long as the memory accesses of a
/// step.
template <int states>
__global__ void __launch_bounds__(block_threads)
    stream_bound_kernel(const __grid_constant__ Step step, int64_t vectors) {
  const int64_t i = int64_t{blockIdx.x} * block_threads + threadIdx.x;
  if (i >= vectors) return;
  const auto vector = [&](const Stream& array) { return elements<float4>(array) + i; };
  const auto sum = [](float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); };
  const float4 g = *vector(step.g);
  float4 p = *vector(step.p), s[max_states];
  for (int k = 0; k < states; ++k) s[k] = *vector(step.states[k]);
  *vector(step.p) = sum(p, g);
  for (int k = 0; k < states; ++k) *vector(step.states[k]) = sum(s[k], g);
}

using Kernel = const void*;

template <class Chunk, class Rule, Form form>
struct Address {
  static Kernel kernel() { return reinterpret_cast<Kernel>(sweep_kernel<Chunk, Rule, form>); }
};

const Kernels<Kernel>& kernels() {
  static const auto table = make_kernels<Kernel, Address>();
  return table;
}

template <class... Argument>
int start(Kernel kernel, int64_t blocks, int threads, uintptr_t stream, Argument... argument) {
  void* arguments[] = {&argument...};
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  return cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)), arguments,
                          0, reinterpret_cast<cudaStream_t>(stream));
}

int64_t blocks_for(int64_t threads) { return (threads + block_threads - 1) / block_threads; }

}  // namespace

int prepare(int rule) {
  cudaFuncAttributes attributes;
  int error = cudaSuccess;
  const auto& [plain, guarded, full] = kernels().sweeps[rule];
  for (const Kernel kernel : {plain[0], plain[1], guarded[0], guarded[1], full[0], full[1],
                              reinterpret_cast<Kernel>(write_kernel), reinterpret_cast<Kernel>(measure_kernel),
                              reinterpret_cast<Kernel>(judge_kernel), reinterpret_cast<Kernel>(advance_kernel)})
    if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, kernel);
  return error;
}

int launch(int rule, const Job* job, uintptr_t stream) {
  return start(kernels().at(rule, *job), job->blocks, block_threads, stream, *job);
}

int write(void* to, const void* from, int64_t words, uintptr_t stream) {
  int error = cudaSuccess;
  for (int64_t done = 0; done < words && error == cudaSuccess; done += Words::most) {
    Words part;
    const int n = static_cast<int>(words - done < Words::most ? words - done : Words::most);
    memcpy(part.word, static_cast<const uint4*>(from) + done, static_cast<size_t>(n) * sizeof(uint4));
    error = start(reinterpret_cast<Kernel>(write_kernel), 1, block_threads, stream, static_cast<uint4*>(to) + done,
                  part, n);
  }
  return error;
}

int measure(const Measurement* launch, uintptr_t stream) {
  const int64_t blocks = blocks_for(launch->leaf_count * warp_threads);
  return blocks == 0 ? 0 : start(reinterpret_cast<Kernel>(measure_kernel), blocks, block_threads, stream, *launch);
}

int judge(const Judgement* launch, uintptr_t stream) {
  return start(reinterpret_cast<Kernel>(judge_kernel), 1, judge_threads, stream, *launch);
}

int advance(int64_t* step_count, const Decision* decision, uintptr_t stream) {
  int device = 0, major = 0;
  int error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) return error;

  cudaLaunchAttribute early{.id = cudaLaunchAttributeProgrammaticStreamSerialization};
  early.val.programmaticStreamSerializationAllowed = 1;
  const cudaLaunchConfig_t config{.gridDim = 1,
                                  .blockDim = 1,
                                  .stream = reinterpret_cast<cudaStream_t>(stream),
                                  .attrs = &early,
                                  .numAttrs = major >= 9 ? 1u : 0u};
  void* arguments[] = {&step_count, &decision};
  return cudaLaunchKernelExC(&config, reinterpret_cast<Kernel>(advance_kernel), arguments);
}

int launch_leaf_sums(const float* x, const float* y, int64_t n, double* sums, uintptr_t stream) {
  const int64_t blocks = blocks_for(sums::leaves_of(n) * warp_threads);
  return blocks == 0 ? 0
                     : start(reinterpret_cast<Kernel>(leaf_sums_kernel), blocks, block_threads, stream, x, y, n, sums);
}

int start_fill(float* memory, float value, int64_t n) {
  return start(reinterpret_cast<Kernel>(fill_kernel), blocks_for(n), block_threads, 0, memory, value, n);
}

int launch_stream_bound(const Step* step, int states, int64_t n, uintptr_t stream) {
  static const Kernel by_states[] = {
      reinterpret_cast<Kernel>(stream_bound_kernel<0>), reinterpret_cast<Kernel>(stream_bound_kernel<1>),
      reinterpret_cast<Kernel>(stream_bound_kernel<2>), reinterpret_cast<Kernel>(stream_bound_kernel<3>)};
  const int64_t vectors = n / Vec4::width;
  return vectors == 0 ? 0 : start(by_states[states], blocks_for(vectors), block_threads, stream, *step, vectors);
}

}  // namespace lrcore::cuda
