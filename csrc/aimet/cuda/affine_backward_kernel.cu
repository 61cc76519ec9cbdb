// Gradient of quantize-dequantize: of the input element by element, of scale and offset as partial
// sums, and the sum of those. Two stages and no atomics, hence the same bits in every run, and
// those of the CPU.
#include "aimet/core/affine.h"
#include "aimet/cuda/kernels.h"
#include "aimet/cuda/reduction.cuh"

#include <cuda_runtime.h>

namespace aimet::cuda {
namespace {

template <typename Element>
struct GradientAccumulator {
  using T = Compute<Element>;

  core::AffineBackwardArguments a;
  core::AffineParams<T> params;
  T scale_sum;
  T offset_sum;

  __device__ __forceinline__ explicit GradientAccumulator(
      const core::AffineBackwardArguments& arguments)
      : a(arguments),
        params{T(1), T(0), static_cast<T>(arguments.qmin), static_cast<T>(arguments.qmax)},
        scale_sum(0),
        offset_sum(0) {}

  __device__ __forceinline__ void begin_channel(std::int64_t channel) {
    params.scale = static_cast<const T*>(a.scale)[channel];
    params.offset = static_cast<const T*>(a.offset)[channel];
    scale_sum = T(0);
    offset_sum = T(0);
  }

  __device__ __forceinline__ void add(std::int64_t index) {
    const T grad = to_compute(static_cast<const Element*>(a.grad)[index]);
    const T x = to_compute(static_cast<const Element*>(a.input)[index]);
    const core::AffineGradient<T> d = core::quantize_dequantize_gradient(grad, x, params);
    if (a.grad_input != nullptr) assign(static_cast<Element*>(a.grad_input)[index], d.input);
    scale_sum += d.scale;
    offset_sum += d.offset;
  }

  __device__ __forceinline__ void merge_lane_above(int distance) {
    scale_sum += __shfl_down_sync(kFullWarp, scale_sum, distance, core::kLanes);
    offset_sum += __shfl_down_sync(kFullWarp, offset_sum, distance, core::kLanes);
  }

  __device__ __forceinline__ void finish(std::int64_t partial) {
    a.partial_scale[partial] = static_cast<double>(scale_sum);
    a.partial_offset[partial] = static_cast<double>(offset_sum);
  }
};

template <typename Element>
__global__ void backward_kernel(core::AffineBackwardArguments arguments) {
  GradientAccumulator<Element> accumulator(arguments);
  reduce(arguments.reduction, accumulator);
}

__global__ void sum_partials_kernel(const double* partials, core::Reduction reduction,
                                    double* sums) {
  double sum = 0;
  combine_partials(
      reduction, [&] { sum = 0; }, [&](std::int64_t index) { sum += partials[index]; },
      [&](int distance) { sum += __shfl_down_sync(kFullWarp, sum, distance); },
      [&](std::int64_t channel) { sums[channel] = sum; });
}

__global__ void sum_members_kernel(const double* values, const std::int64_t* members,
                                   std::int64_t count, std::int64_t size, double* sums) {
  for (std::int64_t p = thread_index(); p < count; p += thread_total()) {
    double sum = 0;
    for (std::int64_t i = 0; i < size; ++i) sum += values[members[p * size + i]];
    sums[p] = sum;
  }
}

}  // namespace

int launch_affine_backward(core::ElementType type, const core::AffineBackwardArguments& arguments,
                           void* stream) {
  const std::int64_t threads = reduction_threads(arguments.reduction);
  if (threads == 0) return 0;
  return with_element_type(type, [&](auto tag) {
    using Element = typename decltype(tag)::type;
    return enqueue(backward_kernel<Element>, threads, stream, arguments);
  });
}

int launch_sum_partials(const double* partials, const core::Reduction& reduction, double* sums,
                        void* stream) {
  if (reduction.shape.channels == 0) return 0;
  return enqueue(sum_partials_kernel, reduction.shape.channels * kWarpSize, stream, partials,
                 reduction, sums);
}

int launch_sum_members(const double* values, const std::int64_t* members, std::int64_t count,
                       std::int64_t size, double* sums, void* stream) {
  if (count == 0) return 0;
  return enqueue(sum_members_kernel, count, stream, values, members, count, size, sums);
}

}  // namespace aimet::cuda
