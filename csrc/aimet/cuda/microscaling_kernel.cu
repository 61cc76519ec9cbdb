// Finds the scale of each block and rounds its elements. Formulas are core/microscaling.h's.
//
// Blocks of up to 32 neighbors: a warp per block, a lane per element, one pass over memory. Any
// other: a thread per block, which reads its elements twice; threads of a warp read neighbors.
#include "aimet/core/microscaling.h"

#include "aimet/cuda/elements.cuh"
#include "aimet/cuda/kernels.h"
#include "aimet/cuda/launch.cuh"

#include <cuda_runtime.h>

namespace aimet::cuda {
namespace {

using core::MicroscalingArguments;

template <bool is_nvfp4, typename Element>
struct Microscaling {
  using T = Compute<Element>;
  using Rank = typename core::FloatBits<T>::Signed;

  const MicroscalingArguments& a;
  const Element* input;
  Element* output;
  T* scales;
  core::FloatRounding<T> rounding;
  core::BlockScaleRule<T> rule;

  __device__ __forceinline__ explicit Microscaling(const MicroscalingArguments& arguments)
      : a(arguments),
        input(static_cast<const Element*>(arguments.input)),
        output(static_cast<Element*>(arguments.output)),
        scales(static_cast<T*>(arguments.scale)),
        rounding(core::rounding_of<T>(arguments.grid)),
        rule{arguments.grid.max_exponent,
             is_nvfp4 ? *static_cast<const T*>(arguments.tensor_scale) : T(1),
             core::rounding_of<T>(core::nvfp4_scale_grid())} {}

  __device__ __forceinline__ core::BlockScale<T> scale_of(Rank largest) const {
    return core::block_scale<is_nvfp4, T>(largest, rule);
  }

  __device__ __forceinline__ T ratio_of(T x, const core::BlockScale<T>& block) const {
    return core::block_ratio<is_nvfp4>(x, block.divisor);
  }

  __device__ __forceinline__ void store(std::int64_t index, T ratio,
                                        const core::BlockScale<T>& block) const {
    assign(output[index], core::round_to_format(ratio, rounding) * block.scale);
  }

  __device__ __forceinline__ std::int64_t rows_of(std::int64_t block) const {
    const std::int64_t left = a.length - block * a.block;
    return left < a.block ? left : a.block;
  }
};

// inner == 1 and block <= 32. The mask's bytes must not be shared between blocks.
template <bool is_nvfp4, bool with_mask, typename Element>
__global__ void rows_kernel(MicroscalingArguments a) {
  const Microscaling<is_nvfp4, Element> m(a);
  using T = Compute<Element>;
  using Rank = typename core::FloatBits<T>::Signed;
  const std::int64_t blocks = a.blocks();
  const std::int64_t total = a.outer * blocks;
  const int lane = threadIdx.x % kWarpSize;
  for (std::int64_t unit = thread_index() / kWarpSize; unit < total;
       unit += thread_total() / kWarpSize) {
    const std::int64_t outer = divide(unit, blocks);
    const std::int64_t block = unit - outer * blocks;
    const std::int64_t start = outer * a.length + block * a.block;
    const bool is_element = lane < m.rows_of(block);
    const T x = is_element ? to_compute(m.input[start + lane]) : T(0);
    Rank largest = core::magnitude_rank(x);
#pragma unroll
    for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
      const Rank other = __shfl_xor_sync(kFullWarp, largest, distance);
      largest = other > largest ? other : largest;
    }
    const core::BlockScale<T> scale = m.scale_of(largest);
    const T ratio = m.ratio_of(x, scale);
    if (is_element) m.store(start + lane, ratio, scale);
    if (lane == 0) m.scales[unit] = scale.scale;
    if constexpr (with_mask) {
      const bool is_inside = is_element && core::is_inside_format(ratio, m.rounding);
      const unsigned flags = __ballot_sync(kFullWarp, is_inside ? 1 : 0);
      const std::int64_t bytes = (m.rows_of(block) + 7) / 8;
      if (lane < bytes) a.mask[start / 8 + lane] = static_cast<std::uint8_t>(flags >> (8 * lane));
    }
  }
}

template <bool is_nvfp4, typename Element>
__global__ void blocks_kernel(MicroscalingArguments a) {
  const Microscaling<is_nvfp4, Element> m(a);
  using T = Compute<Element>;
  using Rank = typename core::FloatBits<T>::Signed;
  const std::int64_t blocks = a.blocks();
  const std::int64_t total = a.outer * blocks * a.inner;
  for (std::int64_t unit = thread_index(); unit < total; unit += thread_total()) {
    const std::int64_t slice = divide(unit, a.inner);
    const std::int64_t column = unit - slice * a.inner;
    const std::int64_t outer = divide(slice, blocks);
    const std::int64_t block = slice - outer * blocks;
    const std::int64_t start = (outer * a.length + block * a.block) * a.inner + column;
    const std::int64_t rows = m.rows_of(block);
    Rank largest = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      const Rank rank = core::magnitude_rank(to_compute(m.input[start + r * a.inner]));
      largest = rank > largest ? rank : largest;
    }
    const core::BlockScale<T> scale = m.scale_of(largest);
    m.scales[unit] = scale.scale;
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t index = start + r * a.inner;
      m.store(index, m.ratio_of(to_compute(m.input[index]), scale), scale);
    }
  }
}

// The mask of blocks whose elements share bytes with those of others: a thread per byte, which
// finds the scales that blocks_kernel wrote. Dividing by MX's is what multiplying by the inverse is.
template <typename Element>
__global__ void mask_kernel(MicroscalingArguments a, std::int64_t count) {
  using T = Compute<Element>;
  const Element* input = static_cast<const Element*>(a.input);
  const T* scales = static_cast<const T*>(a.scale);
  const core::FloatRounding<T> rounding = core::rounding_of<T>(a.grid);
  const std::int64_t blocks = a.blocks();
  for (std::int64_t byte = thread_index(); byte * 8 < count; byte += thread_total()) {
    unsigned flags = 0;
    for (int bit = 0; bit < 8 && byte * 8 + bit < count; ++bit) {
      const std::int64_t index = byte * 8 + bit;
      const std::int64_t row = divide(index, a.inner);
      const std::int64_t outer = divide(row, a.length);
      const std::int64_t block = divide(row - outer * a.length, a.block);
      const T scale = scales[(outer * blocks + block) * a.inner + (index - row * a.inner)];
      flags |= (core::is_inside_format(to_compute(input[index]) / scale, rounding) ? 1u : 0u)
               << bit;
    }
    a.mask[byte] = static_cast<std::uint8_t>(flags);
  }
}

template <bool is_nvfp4, typename Element>
int launch(const MicroscalingArguments& a, void* stream) {
  const std::int64_t block_count = a.outer * a.blocks() * a.inner;
  const std::int64_t count = a.outer * a.length * a.inner;
  if (count == 0) return 0;
  const bool has_own_bytes = a.length % 8 == 0 && a.block % 8 == 0;
  const bool by_rows = a.inner == 1 && a.block <= kWarpSize;
  if (by_rows && a.mask == nullptr)
    return enqueue(rows_kernel<is_nvfp4, false, Element>, block_count * kWarpSize, stream, a);
  if (by_rows && has_own_bytes)
    return enqueue(rows_kernel<is_nvfp4, true, Element>, block_count * kWarpSize, stream, a);
  const int code =
      by_rows ? enqueue(rows_kernel<is_nvfp4, false, Element>, block_count * kWarpSize, stream, a)
              : enqueue(blocks_kernel<is_nvfp4, Element>, block_count, stream, a);
  if (code != 0 || a.mask == nullptr) return code;
  return enqueue(mask_kernel<Element>, (count + 7) / 8, stream, a, count);
}

}  // namespace

int launch_microscaling(core::ElementType type, const MicroscalingArguments& arguments,
                        void* stream) {
  return with_element_type(type, [&](auto tag) {
    using Element = typename decltype(tag)::type;
    return arguments.tensor_scale == nullptr ? launch<false, Element>(arguments, stream)
                                             : launch<true, Element>(arguments, stream);
  });
}

}  // namespace aimet::cuda
