// Maps a tensor element by element: a thread takes 16 bytes at a time, and knows which channel each
// element belongs to.
#pragma once

#include "aimet/core/geometry.h"
#include "aimet/cuda/elements.cuh"
#include "aimet/cuda/launch.cuh"

#include <cuda_runtime.h>

#include <cstdint>

namespace aimet::cuda {

// The channels of successive elements of a (outer, channels, inner) tensor.
class ChannelCursor {
 public:
  __device__ __forceinline__ explicit ChannelCursor(const core::Shape& shape) : shape_(shape) {}

  __device__ __forceinline__ void seek(std::int64_t index) {
    if (shape_.channels == 1) return;
    const std::int64_t run = divide(index, shape_.inner);
    position_ = index - run * shape_.inner;
    channel_ = run - divide(run, shape_.channels) * shape_.channels;
  }

  __device__ __forceinline__ std::int64_t channel() const { return channel_; }

  // True if the next element is of another channel.
  __device__ __forceinline__ bool advance() {
    if (shape_.channels == 1 || ++position_ < shape_.inner) return false;
    position_ = 0;
    if (++channel_ == shape_.channels) channel_ = 0;
    return true;
  }

 private:
  core::Shape shape_;
  std::int64_t channel_ = 0;
  std::int64_t position_ = 0;
};

// Elements of the pack that starts at `first`.
template <typename Element>
__device__ __forceinline__ int pack_length(std::int64_t first, std::int64_t count) {
  const std::int64_t left = count - first;
  return left >= Pack<Element>::kSize ? Pack<Element>::kSize
                                      : (left > 0 ? static_cast<int>(left) : 0);
}

// output[i] = map(input[i]) for i < count. `map` has
//   void begin_channel(int64_t channel);
//   T operator()(T x, unsigned& flag);    flag: the element's bit of the mask
template <bool with_mask, typename Element, typename Map>
__device__ __forceinline__ void map_elements(const Element* input, Element* output,
                                             std::uint8_t* mask, const core::Shape& shape,
                                             std::int64_t count, Map& map) {
  constexpr int kSize = Pack<Element>::kSize;
  const bool is_input_aligned = is_pack_aligned(input);
  const bool is_output_aligned = is_pack_aligned(output);
  ChannelCursor cursor(shape);
  if (shape.channels == 1) map.begin_channel(0);
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
      if (shape.channels != 1) map.begin_channel(cursor.channel());
#pragma unroll
      for (int k = 0; k < kSize; ++k) {
        unsigned flag = 0;
        assign(values.values[k], map(to_compute(values.values[k]), flag));
        if (k < length) flags |= flag << k;
        if (cursor.advance()) map.begin_channel(cursor.channel());
      }
      store_pack(values, output + first, length, is_output_aligned);
    }
    if constexpr (with_mask) {
#pragma unroll
      for (int width = kSize; width < 8; width *= 2) {
        flags |= __shfl_down_sync(kFullWarp, flags, width / kSize) << width;
      }
      if (first % 8 == 0 && first < count) mask[first / 8] = static_cast<std::uint8_t>(flags);
    }
  }
}

}  // namespace aimet::cuda
