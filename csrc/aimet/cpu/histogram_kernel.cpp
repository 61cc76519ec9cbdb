// Counting values into equal bins. Counts are integers, so any split of the work gives the same
// result.
#include "aimet/core/histogram.h"
#include "aimet/cpu/elements.h"
#include "aimet/cpu/functions.h"

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

// Counts up to kChunk values of one channel.
template <typename T>
AIMET_HOST_DEVICE void count_run(const T* x, std::int64_t count, core::Range<T> bins,
                                 std::int64_t bin_count, std::int64_t* counts) {
  alignas(64) std::int32_t index[kChunk];
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int32_t bin =
        core::bin_index(core::is_finite(x[i]) ? x[i] : bins.min, bins, bin_count);
    index[i] = core::is_finite(x[i]) ? bin : -1;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    if (index[i] >= 0) ++counts[index[i]];
  }
}

template <typename Element>
AIMET_HOST_DEVICE void histogram_box(const HistogramArguments& a, const Box& box,
                                     std::int64_t* counts) {
  using T = Compute<Element>;
  const Element* input = static_cast<const Element*>(a.input);
  const T* min = static_cast<const T*>(a.min);
  const T* max = static_cast<const T*>(a.max);
  alignas(64) T buffer[kChunk];
  for (std::int64_t o = box.outer_begin; o < box.outer_end; ++o) {
    for (std::int64_t c = box.channel_begin; c < box.channel_end; ++c) {
      const core::Range<T> observed{min[c], max[c]};
      if (!core::is_observed(observed)) continue;
      const core::Range<T> bins = core::bin_range(observed);
      const Element* run = input + (o * a.shape.channels + c) * a.shape.inner;
      for (std::int64_t start = box.inner_begin; start < box.inner_end; start += kChunk) {
        const std::int64_t left = box.inner_end - start;
        const std::int64_t count = left < kChunk ? left : kChunk;
        count_run(load(run + start, count, buffer), count, bins, a.bin_count,
                  counts + c * a.bin_count);
      }
    }
  }
}

}  // namespace

void histogram(ElementType type, const HistogramArguments& arguments, const Box& box,
               std::int64_t* counts) {
  with_element_type(
      type, [&](auto tag) { histogram_box<typename decltype(tag)::type>(arguments, box, counts); });
}

}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE
