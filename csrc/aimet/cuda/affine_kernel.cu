// Quantize, dequantize and quantize-dequantize, and the mask of the straight-through gradient. A
// thread takes 16 bytes at a time; formulas are core/affine.h's.
#include "aimet/core/affine.h"
#include "aimet/cuda/channels.cuh"
#include "aimet/cuda/kernels.h"
#include "aimet/cuda/launch.cuh"

#include <cuda_runtime.h>

namespace aimet::cuda {
namespace {

using core::AffineArguments;
using core::AffineMode;

template <AffineMode mode, bool with_mask, typename T>
struct AffineMap {
  const T* scale;
  const T* offset;
  core::AffineParams<T> params;

  __device__ __forceinline__ explicit AffineMap(const AffineArguments& a)
      : scale(static_cast<const T*>(a.scale)),
        offset(static_cast<const T*>(a.offset)),
        params{T(1), T(0), static_cast<T>(a.qmin), static_cast<T>(a.qmax)} {}

  __device__ __forceinline__ void begin_channel(std::int64_t channel) {
    params.scale = scale[channel];
    params.offset = offset[channel];
  }

  __device__ __forceinline__ T operator()(T x, unsigned& flag) const {
    if constexpr (mode == AffineMode::kDequantize) {
      return core::dequantize(x, params);
    } else if constexpr (mode == AffineMode::kQuantize) {
      return core::quantize(x, params);
    } else if constexpr (!with_mask) {
      return core::quantize_dequantize(x, params);
    } else {
      const T unclamped = core::unclamped_code(x, params);
      flag = core::is_inside_grid(unclamped, params) ? 1u : 0u;
      return core::dequantize(core::clamp(unclamped, params.qmin, params.qmax), params);
    }
  }
};

template <AffineMode mode, bool with_mask, typename Element>
__global__ void affine_kernel(AffineArguments a, std::int64_t count) {
  AffineMap<mode, with_mask, Compute<Element>> map(a);
  map_elements<with_mask>(static_cast<const Element*>(a.input), static_cast<Element*>(a.output),
                          a.mask, a.shape, count, map);
}

template <typename Bits>
__global__ void select_kernel(const Bits* grad, const std::uint8_t* mask, Bits* output,
                              std::int64_t count) {
  constexpr int kSize = Pack<Bits>::kSize;
  const bool is_grad_aligned = is_pack_aligned(grad);
  const bool is_output_aligned = is_pack_aligned(output);
  const std::int64_t packs = (count + kSize - 1) / kSize;
  for (std::int64_t pack = thread_index(); pack < packs; pack += thread_total()) {
    const std::int64_t first = pack * kSize;
    const int length = pack_length<Bits>(first, count);
    Pack<Bits> values = load_pack(grad + first, length, is_grad_aligned);
    const unsigned flags = static_cast<unsigned>(mask[first / 8]) >> (first % 8);
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      if (((flags >> k) & 1u) == 0) values.values[k] = 0;
    }
    store_pack(values, output + first, length, is_output_aligned);
  }
}

template <AffineMode mode, bool with_mask, typename Element>
int launch(const AffineArguments& arguments, std::int64_t count, void* stream) {
  const std::int64_t packs = (count + Pack<Element>::kSize - 1) / Pack<Element>::kSize;
  return enqueue(affine_kernel<mode, with_mask, Element>, packs, stream, arguments, count);
}

template <typename Bits>
int launch_select(const void* grad, const std::uint8_t* mask, void* output, std::int64_t count,
                  void* stream) {
  const std::int64_t packs = (count + Pack<Bits>::kSize - 1) / Pack<Bits>::kSize;
  return enqueue(select_kernel<Bits>, packs, stream, static_cast<const Bits*>(grad), mask,
                 static_cast<Bits*>(output), count);
}

}  // namespace

int launch_affine(core::ElementType type, AffineMode mode, const AffineArguments& arguments,
                  std::int64_t count, void* stream) {
  if (count == 0) return 0;
  return with_element_type(type, [&](auto tag) {
    using Element = typename decltype(tag)::type;
    switch (mode) {
      case AffineMode::kQuantize:
        return launch<AffineMode::kQuantize, false, Element>(arguments, count, stream);
      case AffineMode::kDequantize:
        return launch<AffineMode::kDequantize, false, Element>(arguments, count, stream);
      case AffineMode::kQuantizeDequantize:
        return arguments.mask == nullptr ? launch<AffineMode::kQuantizeDequantize, false, Element>(
                                               arguments, count, stream)
                                         : launch<AffineMode::kQuantizeDequantize, true, Element>(
                                               arguments, count, stream);
    }
    return static_cast<int>(cudaErrorInvalidValue);
  });
}

int launch_select_by_mask(int element_size, const void* grad, const std::uint8_t* mask,
                          void* output, std::int64_t count, void* stream) {
  if (count == 0) return 0;
  if (element_size == 2) return launch_select<std::uint16_t>(grad, mask, output, count, stream);
  if (element_size == 4) return launch_select<std::uint32_t>(grad, mask, output, count, stream);
  if (element_size == 8) return launch_select<std::uint64_t>(grad, mask, output, count, stream);
  return static_cast<int>(cudaErrorInvalidValue);
}

const char* error_text(int code) {
  return cudaGetErrorString(static_cast<cudaError_t>(code));
}

}  // namespace aimet::cuda
