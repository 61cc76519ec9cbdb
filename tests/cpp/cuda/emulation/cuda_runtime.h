// Stands in for CUDA's header of this name, so that the kernels of csrc/aimet/cuda run on the CPU:
// every thread of a block is a fiber; a shuffle waits until all 32 of a warp have reached it, a
// barrier until all of the block have. When some threads return or wait elsewhere instead, the
// program aborts (a GPU would hang or compute nonsense). Blocks run one after the other.
//
// Tests indexing, order of summation, masks and bounds; not speed, and not the GPU's own
// arithmetic.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ \
  static  // blocks take turns; each finds what the last one left behind, as on a GPU

struct dim3 {
  unsigned x = 1;
  unsigned y = 1;
  unsigned z = 1;
  dim3() = default;
  explicit dim3(unsigned width) : x(width) {}
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid argument";
}

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  cudaStream_t stream = nullptr;
};

namespace cuda_emulation {

inline constexpr unsigned kLaneCount = 32;
// Grids are cut to this many blocks: kernels must cover their elements with fewer threads than they
// asked for.
inline constexpr unsigned kMaxBlocks = 2;

// Runs `kernel` for every thread of the grid.
void run_grid(const cudaLaunchConfig_t& config, const std::function<void()>& kernel);

// Hands `bits` in and returns those of lane `source` once all lanes of the warp have done so.
std::uint64_t exchange(std::uint64_t bits, unsigned source_lane);

void wait_at_barrier();

}  // namespace cuda_emulation

// Of the fiber that is running.
extern dim3 threadIdx;
extern dim3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  cuda_emulation::run_grid(*config, [&] { kernel(arguments...); });
  return cudaSuccess;
}

namespace cuda_emulation {

template <typename T>
T value_of_lane(unsigned mask, T value, unsigned source) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t) && std::is_trivially_copyable_v<T>);
  if (mask != 0xffffffffu) return T{};  // not used by our kernels; wrong on purpose
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(bits, source);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace cuda_emulation

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta,
                   unsigned width = cuda_emulation::kLaneCount) {
  const unsigned lane = threadIdx.x % cuda_emulation::kLaneCount;
  const unsigned source = lane % width + delta < width ? lane + delta : lane;
  return cuda_emulation::value_of_lane(mask, value, source);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, unsigned lane_mask) {
  const unsigned lane = threadIdx.x % cuda_emulation::kLaneCount;
  return cuda_emulation::value_of_lane(mask, value, lane ^ lane_mask);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  unsigned votes = (predicate != 0 ? 1u : 0u) << threadIdx.x % cuda_emulation::kLaneCount;
  for (unsigned distance = 1; distance < cuda_emulation::kLaneCount; distance *= 2)
    votes |= __shfl_xor_sync(mask, votes, distance);
  return votes;
}

inline void __syncthreads() {
  cuda_emulation::wait_at_barrier();
}

template <typename T>
T atomicAdd(T* target, T value) {
  const T before = *target;
  *target += value;
  return before;
}

inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
