// Finds the scale and offset of each element of a (outer, channels, inner) tensor, a chunk at a
// time.
#pragma once

#include "aimet/core/macros.h"
#include "aimet/cpu/kernels.h"

#include <cstdint>

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

template <typename T>
class ChannelRuns {
 public:
  AIMET_HOST_DEVICE ChannelRuns(const T* scale, const T* offset, Shape shape)
      : scale_(scale), offset_(offset), shape_(shape) {}

  // Covers the flat elements [start, start + count), count <= kChunk, with calls of
  //   on_run(first, length, scale, offset)        one channel: scalars
  //   on_channels(first, length, scale*, offset*) one value per element: arrays
  // where `first` counts from `start`.
  template <typename OnRun, typename OnChannels>
  AIMET_HOST_DEVICE void for_each(std::int64_t start, std::int64_t count, OnRun&& on_run,
                                  OnChannels&& on_channels) {
    if (shape_.channels == 1) {
      on_run(std::int64_t{0}, count, scale_[0], offset_[0]);
    } else if (shape_.inner >= kShortRun) {
      // Divisions once, not for each run: short ones take less time than a division.
      std::int64_t channel = start / shape_.inner % shape_.channels;
      std::int64_t left_in_run = shape_.inner - start % shape_.inner;
      for (std::int64_t i = 0; i < count;) {
        const std::int64_t length = left_in_run < count - i ? left_in_run : count - i;
        on_run(i, length, scale_[channel], offset_[channel]);
        i += length;
        left_in_run = shape_.inner;
        if (++channel == shape_.channels) channel = 0;
      }
    } else if (shape_.inner == 1 && shape_.channels >= kShortRun) {
      for (std::int64_t i = 0; i < count;) {
        const std::int64_t channel = (start + i) % shape_.channels;
        const std::int64_t left_in_row = shape_.channels - channel;
        const std::int64_t length = left_in_row < count - i ? left_in_row : count - i;
        on_channels(i, length, scale_ + channel, offset_ + channel);
        i += length;
      }
    } else {
      expand(start, count);
      on_channels(std::int64_t{0}, count, expanded_scale_, expanded_offset_);
    }
  }

 private:
  // Runs too short for a loop each: writes the scale of every element out.
  AIMET_HOST_DEVICE void expand(std::int64_t start, std::int64_t count) {
    std::int64_t channel = (start / shape_.inner) % shape_.channels;
    std::int64_t position = start % shape_.inner;
    for (std::int64_t i = 0; i < count; ++i) {
      expanded_scale_[i] = scale_[channel];
      expanded_offset_[i] = offset_[channel];
      if (++position == shape_.inner) {
        position = 0;
        if (++channel == shape_.channels) channel = 0;
      }
    }
  }

  const T* scale_;
  const T* offset_;
  Shape shape_;
  alignas(64) T expanded_scale_[kChunk];
  alignas(64) T expanded_offset_[kChunk];
};

}  // namespace
}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE
