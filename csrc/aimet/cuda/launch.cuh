// Launching: grid-stride loops over 64-bit counts.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace aimet::cuda {

inline constexpr int kThreads = 256;  // per block
inline constexpr int kWarpSize = 32;
inline constexpr unsigned kFullWarp = 0xffffffffu;
inline constexpr std::int64_t kMaxBlocks = 1 << 16;  // a grid-stride loop covers the rest

// Blocks for `count` threads.
inline unsigned block_count(std::int64_t count) {
  const std::int64_t blocks = (count + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

// Enqueues `kernel` with as many threads as `count` asks for; a cudaError_t.
template <typename... Parameters, typename... Arguments>
int enqueue(void (*kernel)(Parameters...), std::int64_t count, void* stream,
            const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(block_count(count));
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  return static_cast<int>(cudaLaunchKernelEx(&config, kernel, arguments...));
}

__device__ __forceinline__ std::int64_t thread_index() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ std::int64_t thread_total() {
  return static_cast<std::int64_t>(gridDim.x) * blockDim.x;
}

}  // namespace aimet::cuda
