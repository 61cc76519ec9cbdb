// Histograms of equal bins over [min, max]: which bin a value falls into, and how counts move to a
// wider range.
#pragma once

#include "aimet/core/encoding.h"
#include "aimet/core/macros.h"
#include "aimet/core/rounding.h"

#include <cstdint>

namespace aimet::core {

// True where something was observed: finite limits in order. (Nothing observed: +inf, -inf.)
template <typename T>
AIMET_HOST_DEVICE bool is_observed(Range<T> range) {
  return is_finite(range.min) & is_finite(range.max) & (range.min <= range.max);
}

// The range that the bins divide: constant data gets half a unit on either side, as in torch.histc.
// Limits are kept so small that their difference does not overflow.
template <typename T>
AIMET_HOST_DEVICE Range<T> bin_range(Range<T> observed) {
  const T half = observed.min == observed.max ? T(0.5) : T(0);
  const T limit = largest_limit<T>();
  return {clamp(observed.min - half, -limit, limit), clamp(observed.max + half, -limit, limit)};
}

template <typename T>
AIMET_HOST_DEVICE T bin_width(Range<T> bins, std::int64_t bin_count) {
  return (bins.max - bins.min) / T(bin_count);
}

// torch.histc's formula, in its order. Values outside belong to the first or last bin. `x` must be
// finite.
template <typename T>
AIMET_HOST_DEVICE std::int32_t bin_index(T x, Range<T> bins, std::int64_t bin_count) {
  const T position = (x - bins.min) * T(bin_count) / (bins.max - bins.min);
  const T last = T(bin_count - 1);
  // NaN (0 / 0, where half a unit does not widen a huge constant) compares false and lands in bin 0
  // like everything below it.
  const T raised = position > T(0) ? position : T(0);
  return static_cast<std::int32_t>(raised < last ? raised : last);
}

// How the counts of one bin of an old histogram are divided over a new one whose bins are at least
// as wide: `first` of them go to bin `index`, the rest, which begins beyond that bin's end, to the
// next.
struct BinSplit {
  std::int64_t index;
  std::int64_t first;
};

template <typename T>
AIMET_HOST_DEVICE BinSplit split_bin(std::int64_t bin, std::int64_t count, Range<T> old_bins,
                                     Range<T> new_bins, std::int64_t bin_count) {
  const T old_width = bin_width(old_bins, bin_count);
  const T new_width = bin_width(new_bins, bin_count);
  const T start = old_bins.min + old_width * T(bin);
  const T position = (start - new_bins.min) / new_width;
  const T last = T(bin_count - 1);
  const T clamped = position > T(0) ? (position < last ? position : last) : T(0);
  const std::int64_t index = static_cast<std::int64_t>(clamped);  // rounds down: not negative
  const T end = new_bins.min + new_width * T(index + 1);
  const T share = clamp((end - start) / old_width, T(0), T(1));
  const std::int64_t first = static_cast<std::int64_t>(round_half_even(share * T(count)));
  return {index, first < count ? first : count};
}

}  // namespace aimet::core
