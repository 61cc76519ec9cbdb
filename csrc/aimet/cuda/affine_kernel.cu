// Quantize, dequantize and quantize-dequantize, and the mask of the straight-through gradient. A
// thread takes 16 bytes at a time; formulas are core/affine.h's.
#include "aimet/core/affine.h"
#include "aimet/cuda/elements.cuh"
#include "aimet/cuda/kernels.h"
#include "aimet/cuda/launch.cuh"

#include <cuda_runtime.h>

namespace aimet::cuda {
namespace {

using core::AffineArguments;
using core::AffineMode;

// Scale and offset of successive elements of a (outer, channels, inner) tensor.
template <typename T>
class ChannelCursor {
 public:
  __device__ __forceinline__ ChannelCursor(const AffineArguments& a, T qmin, T qmax)
      : scale_(static_cast<const T*>(a.scale)),
        offset_(static_cast<const T*>(a.offset)),
        shape_(a.shape) {
    params_ = {T(1), T(0), qmin, qmax};
    if (shape_.channels == 1) load_channel();
  }

  __device__ __forceinline__ void seek(std::int64_t index) {
    if (shape_.channels == 1) return;
    const std::int64_t run = divide(index, shape_.inner);
    position_ = index - run * shape_.inner;
    channel_ = run - divide(run, shape_.channels) * shape_.channels;
    load_channel();
  }

  __device__ __forceinline__ const core::AffineParams<T>& params() const { return params_; }

  __device__ __forceinline__ void advance() {
    if (shape_.channels == 1 || ++position_ < shape_.inner) return;
    position_ = 0;
    if (++channel_ == shape_.channels) channel_ = 0;
    load_channel();
  }

 private:
  __device__ __forceinline__ void load_channel() {
    params_.scale = scale_[channel_];
    params_.offset = offset_[channel_];
  }

  const T* scale_;
  const T* offset_;
  core::Shape shape_;
  std::int64_t channel_ = 0;
  std::int64_t position_ = 0;
  core::AffineParams<T> params_;
};

template <AffineMode mode, bool with_mask, typename T>
__device__ __forceinline__ T apply(T x, const core::AffineParams<T>& params, unsigned& flag) {
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

// Elements of the pack that starts at `first`.
template <typename Element>
__device__ __forceinline__ int pack_length(std::int64_t first, std::int64_t count) {
  const std::int64_t left = count - first;
  return left >= Pack<Element>::kSize ? Pack<Element>::kSize
                                      : (left > 0 ? static_cast<int>(left) : 0);
}

template <AffineMode mode, bool with_mask, typename Element>
__global__ void affine_kernel(AffineArguments a, std::int64_t count) {
  using T = Compute<Element>;
  constexpr int kSize = Pack<Element>::kSize;
  const Element* input = static_cast<const Element*>(a.input);
  Element* output = static_cast<Element*>(a.output);
  const bool is_input_aligned = is_pack_aligned(input);
  const bool is_output_aligned = is_pack_aligned(output);
  ChannelCursor<T> cursor(a, static_cast<T>(a.qmin), static_cast<T>(a.qmax));
  const std::int64_t packs = (count + kSize - 1) / kSize;
  const int lane = threadIdx.x % kWarpSize;

  // Whole warps stay in the loop: the mask's bytes are put together across lanes.
  for (std::int64_t pack = thread_index(); pack - lane < packs; pack += thread_total()) {
    const std::int64_t first = pack * kSize;
    const int length = pack_length<Element>(first, count);
    unsigned flags = 0;
    if (length > 0) {
      Pack<Element> values = load_pack(input + first, length, is_input_aligned);
      cursor.seek(first);
#pragma unroll
      for (int k = 0; k < kSize; ++k) {
        unsigned flag = 0;
        assign(values.values[k],
               apply<mode, with_mask>(to_compute(values.values[k]), cursor.params(), flag));
        if (k < length) flags |= flag << k;
        cursor.advance();
      }
      store_pack(values, output + first, length, is_output_aligned);
    }
    if constexpr (with_mask) {
#pragma unroll
      for (int width = kSize; width < 8; width *= 2) {
        flags |= __shfl_down_sync(kFullWarp, flags, width / kSize) << width;
      }
      if (first % 8 == 0 && first < count) a.mask[first / 8] = static_cast<std::uint8_t>(flags);
    }
  }
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
