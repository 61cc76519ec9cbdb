// Rounding to small floating-point formats, the mask of the straight-through gradient, and the
// gradient of the scale. Formulas are core/float_format.h's.
#include "aimet/core/float_format.h"
#include "aimet/cuda/channels.cuh"
#include "aimet/cuda/kernels.h"
#include "aimet/cuda/reduction.cuh"

#include <cuda_runtime.h>

namespace aimet::cuda {
namespace {

template <typename T>
struct FloatMap {
  const T* scales;
  core::FloatRounding<T> rounding;
  T scale;

  __device__ __forceinline__ explicit FloatMap(const core::FloatFormatArguments& a)
      : scales(static_cast<const T*>(a.scale)),
        rounding(core::rounding_of<T>(a.grid)),
        scale(T(1)) {}

  __device__ __forceinline__ void begin_channel(std::int64_t channel) { scale = scales[channel]; }

  __device__ __forceinline__ T operator()(T x, unsigned& flag) const {
    const T ratio = x / scale;
    flag = core::is_inside_format(ratio, rounding) ? 1u : 0u;
    return core::round_to_format(ratio, rounding) * scale;
  }
};

template <bool with_mask, typename Element>
__global__ void float_format_kernel(core::FloatFormatArguments a, std::int64_t count) {
  FloatMap<Compute<Element>> map(a);
  map_elements<with_mask>(static_cast<const Element*>(a.input), static_cast<Element*>(a.output),
                          a.mask, a.shape, count, map);
}

template <typename Element>
struct FloatGradientAccumulator {
  using T = Compute<Element>;

  core::FloatFormatBackwardArguments a;
  core::FloatRounding<T> rounding;
  T scale;
  T sum;

  __device__ __forceinline__ explicit FloatGradientAccumulator(
      const core::FloatFormatBackwardArguments& arguments)
      : a(arguments), rounding(core::rounding_of<T>(arguments.grid)), scale(T(1)), sum(T(0)) {}

  __device__ __forceinline__ void begin_channel(std::int64_t channel) {
    scale = static_cast<const T*>(a.scale)[channel];
    sum = T(0);
  }

  __device__ __forceinline__ void add(std::int64_t index) {
    const T grad = to_compute(static_cast<const Element*>(a.grad)[index]);
    const T x = to_compute(static_cast<const Element*>(a.input)[index]);
    const core::FloatGradient<T> d =
        core::quantize_dequantize_float_gradient(grad, x, scale, rounding);
    if (a.grad_input != nullptr) assign(static_cast<Element*>(a.grad_input)[index], d.input);
    sum += d.scale;
  }

  __device__ __forceinline__ void merge_lane_above(int distance) {
    sum += __shfl_down_sync(kFullWarp, sum, distance, core::kLanes);
  }

  __device__ __forceinline__ void finish(std::int64_t partial) {
    a.partial_scale[partial] = static_cast<double>(sum);
  }
};

template <typename Element>
__global__ void float_backward_kernel(core::FloatFormatBackwardArguments arguments) {
  FloatGradientAccumulator<Element> accumulator(arguments);
  reduce(arguments.reduction, accumulator);
}

}  // namespace

int launch_float_format(core::ElementType type, const core::FloatFormatArguments& arguments,
                        std::int64_t count, void* stream) {
  if (count == 0) return 0;
  return with_element_type(type, [&](auto tag) {
    using Element = typename decltype(tag)::type;
    const std::int64_t packs = (count + Pack<Element>::kSize - 1) / Pack<Element>::kSize;
    return arguments.mask == nullptr
               ? enqueue(float_format_kernel<false, Element>, packs, stream, arguments, count)
               : enqueue(float_format_kernel<true, Element>, packs, stream, arguments, count);
  });
}

int launch_float_format_backward(core::ElementType type,
                                 const core::FloatFormatBackwardArguments& arguments,
                                 void* stream) {
  const std::int64_t threads = reduction_threads(arguments.reduction);
  if (threads == 0) return 0;
  return with_element_type(type, [&](auto tag) {
    using Element = typename decltype(tag)::type;
    return enqueue(float_backward_kernel<Element>, threads, stream, arguments);
  });
}

}  // namespace aimet::cuda
