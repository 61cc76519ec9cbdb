// Smallest and largest finite value per task of the reduction, and per channel. Minima do not
// depend on the order; the operators drop the sign of zero.
#include "aimet/core/rounding.h"
#include "aimet/cuda/kernels.h"
#include "aimet/cuda/reduction.cuh"

#include <cuda_runtime.h>

namespace aimet::cuda {
namespace {

template <typename T>
__device__ __forceinline__ T infinity() {
  return static_cast<T>(__int_as_float(0x7f800000));
}

template <typename T>
struct Limits {
  T low;
  T high;

  __device__ __forceinline__ void reset() {
    low = infinity<T>();
    high = -infinity<T>();
  }
  __device__ __forceinline__ void include(T other_low, T other_high) {
    low = core::minimum(low, other_low);
    high = core::maximum(high, other_high);
  }
  __device__ __forceinline__ void merge_lane_above(int distance, int width) {
    const T other_low = __shfl_down_sync(kFullWarp, low, distance, width);
    const T other_high = __shfl_down_sync(kFullWarp, high, distance, width);
    include(other_low, other_high);
  }
};

template <typename Element>
struct LimitsAccumulator {
  using T = Compute<Element>;

  core::MinMaxArguments a;
  Limits<T> limits;

  __device__ __forceinline__ void begin_channel(std::int64_t) { limits.reset(); }
  __device__ __forceinline__ void add(std::int64_t index) {
    const T x = to_compute(static_cast<const Element*>(a.input)[index]);
    if (core::is_finite(x)) limits.include(x, x);
  }
  __device__ __forceinline__ void merge_lane_above(int distance) {
    limits.merge_lane_above(distance, core::kLanes);
  }
  __device__ __forceinline__ void finish(std::int64_t partial) {
    static_cast<T*>(a.partial_min)[partial] = limits.low;
    static_cast<T*>(a.partial_max)[partial] = limits.high;
  }
};

template <typename Element>
__global__ void min_max_kernel(core::MinMaxArguments arguments) {
  LimitsAccumulator<Element> accumulator{arguments, {}};
  reduce(arguments.reduction, accumulator);
}

template <typename T>
__global__ void combine_kernel(const T* partial_min, const T* partial_max,
                               core::Reduction reduction, T* low, T* high) {
  Limits<T> limits;
  combine_partials(
      reduction, [&] { limits.reset(); },
      [&](std::int64_t index) { limits.include(partial_min[index], partial_max[index]); },
      [&](int distance) { limits.merge_lane_above(distance, kWarpSize); },
      [&](std::int64_t channel) {
        low[channel] = limits.low;
        high[channel] = limits.high;
      });
}

template <typename T>
int launch_combine(const void* partial_min, const void* partial_max,
                   const core::Reduction& reduction, void* low, void* high, void* stream) {
  return enqueue(combine_kernel<T>, reduction.shape.channels * kWarpSize, stream,
                 static_cast<const T*>(partial_min), static_cast<const T*>(partial_max), reduction,
                 static_cast<T*>(low), static_cast<T*>(high));
}

}  // namespace

int launch_min_max(core::ElementType type, const core::MinMaxArguments& arguments, void* stream) {
  const std::int64_t threads = reduction_threads(arguments.reduction);
  if (threads == 0) return 0;
  return with_element_type(type, [&](auto tag) {
    using Element = typename decltype(tag)::type;
    return enqueue(min_max_kernel<Element>, threads, stream, arguments);
  });
}

int launch_combine_min_max(bool is_double, const void* partial_min, const void* partial_max,
                           const core::Reduction& reduction, void* low, void* high, void* stream) {
  if (reduction.shape.channels == 0) return 0;
  return is_double ? launch_combine<double>(partial_min, partial_max, reduction, low, high, stream)
                   : launch_combine<float>(partial_min, partial_max, reduction, low, high, stream);
}

}  // namespace aimet::cuda
