// Counting values into equal bins. A block counts a part of one channel in shared memory and adds
// its counts to the histogram in the end. Counts are integers, so atomics in any order give the
// same result.
#include "aimet/core/histogram.h"
#include "aimet/cuda/elements.cuh"
#include "aimet/cuda/kernels.h"
#include "aimet/cuda/launch.cuh"

#include <cuda_runtime.h>

namespace aimet::cuda {
namespace {

// The most bins that are counted in shared memory (8 KiB a block: the largest default histogram).
// Histograms with more are counted in place.
constexpr std::int64_t kSharedBins = 2048;
// Elements per block: enough to make clearing and adding up 2048 bins a small part of its work.
constexpr std::int64_t kElementsPerBlock = 32768;

using Count = unsigned long long;  // CUDA's 64-bit atomics take this type; histograms are int64

// Adds to bins; successive equal bins, frequent after a ReLU, are one atomic operation.
template <typename Counter>
class BinCounter {
 public:
  __device__ __forceinline__ explicit BinCounter(Counter* counts) : counts_(counts) {}

  __device__ __forceinline__ void add(std::int32_t bin) {
    if (bin != bin_) flush();
    bin_ = bin;
    ++pending_;
  }
  __device__ __forceinline__ void flush() {
    if (pending_ != 0) atomicAdd(counts_ + bin_, pending_);
    pending_ = 0;
  }

 private:
  Counter* counts_;
  std::int32_t bin_ = 0;
  Counter pending_ = 0;
};

// Counts the elements begin, begin + blockDim, ... below end of a channel, numbered over outer and
// inner.
template <typename Element, typename Counter>
__device__ __forceinline__ void count_part(const core::HistogramArguments& a, std::int64_t channel,
                                           std::int64_t begin, std::int64_t end,
                                           core::Range<Compute<Element>> bins, Counter* counts) {
  const Element* input = static_cast<const Element*>(a.input);
  BinCounter<Counter> counter(counts);
  for (std::int64_t n = begin + threadIdx.x; n < end; n += blockDim.x) {
    const std::int64_t outer = divide(n, a.shape.inner);
    const std::int64_t index =
        (outer * a.shape.channels + channel) * a.shape.inner + (n - outer * a.shape.inner);
    const auto x = to_compute(input[index]);
    if (core::is_finite(x)) counter.add(core::bin_index(x, bins, a.bin_count));
  }
  counter.flush();
}

// `part_count` parts of each channel; a block takes one part after the other.
template <typename Element, bool is_shared>
__global__ void histogram_kernel(core::HistogramArguments a, std::int64_t part_count,
                                 Count* histogram) {
  using T = Compute<Element>;
  __shared__ unsigned counts[is_shared ? kSharedBins : 1];
  const std::int64_t size = a.shape.outer * a.shape.inner;
  const std::int64_t part_size = (size + part_count - 1) / part_count;
  for (std::int64_t part = blockIdx.x; part < a.shape.channels * part_count; part += gridDim.x) {
    const std::int64_t channel = divide(part, part_count);
    const std::int64_t begin = (part - channel * part_count) * part_size;
    const std::int64_t end = begin + part_size < size ? begin + part_size : size;
    const core::Range<T> observed{static_cast<const T*>(a.min)[channel],
                                  static_cast<const T*>(a.max)[channel]};
    if (!core::is_observed(observed)) continue;  // the whole block
    const core::Range<T> bins = core::bin_range(observed);
    Count* target = histogram + channel * a.bin_count;
    if constexpr (is_shared) {
      for (std::int64_t bin = threadIdx.x; bin < a.bin_count; bin += blockDim.x) counts[bin] = 0;
      __syncthreads();
      count_part<Element>(a, channel, begin, end, bins, counts);
      __syncthreads();
      for (std::int64_t bin = threadIdx.x; bin < a.bin_count; bin += blockDim.x) {
        if (counts[bin] != 0) atomicAdd(target + bin, static_cast<Count>(counts[bin]));
      }
      __syncthreads();  // before the next part clears the counts
    } else {
      count_part<Element>(a, channel, begin, end, bins, target);
    }
  }
}

}  // namespace

int launch_histogram(core::ElementType type, const core::HistogramArguments& arguments,
                     std::int64_t* histogram, void* stream) {
  const std::int64_t size = arguments.shape.outer * arguments.shape.inner;
  if (size == 0 || arguments.shape.channels == 0) return 0;
  const std::int64_t part_count = (size + kElementsPerBlock - 1) / kElementsPerBlock;
  const std::int64_t threads = arguments.shape.channels * part_count * kThreads;
  Count* counts = reinterpret_cast<Count*>(histogram);
  return with_element_type(type, [&](auto tag) {
    using Element = typename decltype(tag)::type;
    return arguments.bin_count <= kSharedBins ? enqueue(histogram_kernel<Element, true>, threads,
                                                        stream, arguments, part_count, counts)
                                              : enqueue(histogram_kernel<Element, false>, threads,
                                                        stream, arguments, part_count, counts);
  });
}

}  // namespace aimet::cuda
