// Counting values into equal bins. Counts are integers, so any split of the work gives the same
// result.
#include "aimet/core/histogram.h"
#include "aimet/cpu/elements.h"
#include "aimet/cpu/functions.h"

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

// Adding one to a count waits for the addition before where both meet the same bin, and half of what
// passes a ReLU is zero: neighbours count in arrays of their own, which are added up at the end.
// They hold 16 bits each, so that all of them stay in the first-level cache.
constexpr std::int64_t kArrays = 8;
constexpr std::int64_t kMostBins = 2048;
constexpr std::int64_t kChunksPerSum = 256;  // an array counts kChunk / kArrays of each
static_assert(kChunksPerSum * (kChunk / kArrays) < 65536, "counts of 16 bits overflow");

// The bin of each value; `bin_count`, one behind the last, where it is not finite.
template <typename T>
AIMET_HOST_DEVICE void find_bins(const T* x, std::int64_t count, core::Range<T> bins,
                                 std::int64_t bin_count, std::int32_t* index) {
  const std::int32_t none = static_cast<std::int32_t>(bin_count);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int32_t bin =
        core::bin_index(core::is_finite(x[i]) ? x[i] : bins.min, bins, bin_count);
    index[i] = core::is_finite(x[i]) ? bin : none;
  }
}

// A run that is short against the number of bins.
template <typename Element>
AIMET_HOST_DEVICE void count_short_run(const Element* run, std::int64_t size,
                                       core::Range<Compute<Element>> bins, std::int64_t bin_count,
                                       std::int64_t* counts) {
  alignas(64) Compute<Element> buffer[kChunk];
  alignas(64) std::int32_t index[kChunk];
  for (std::int64_t start = 0; start < size; start += kChunk) {
    const std::int64_t count = size - start < kChunk ? size - start : kChunk;
    find_bins(load(run + start, count, buffer), count, bins, bin_count, index);
    for (std::int64_t i = 0; i < count; ++i) {
      if (index[i] < bin_count) ++counts[index[i]];
    }
  }
}

AIMET_HOST_DEVICE void add_arrays(const std::uint16_t* arrays, std::int64_t bin_count,
                                  std::int64_t* counts) {
  const std::int64_t stride = bin_count + 1;
  for (std::int64_t bin = 0; bin < bin_count; ++bin) {
    std::int32_t sum = 0;
    for (std::int64_t k = 0; k < kArrays; ++k) sum += arrays[k * stride + bin];
    counts[bin] += sum;
  }
}

template <typename Element>
AIMET_HOST_DEVICE void count_long_run(const Element* run, std::int64_t size,
                                      core::Range<Compute<Element>> bins, std::int64_t bin_count,
                                      std::int64_t* counts) {
  alignas(64) Compute<Element> buffer[kChunk];
  alignas(64) std::int32_t index[kChunk];
  alignas(64) std::uint16_t arrays[kArrays * (kMostBins + 1)];
  const std::int64_t stride = bin_count + 1;
  constexpr std::int64_t kPart = kChunksPerSum * kChunk;
  for (std::int64_t part = 0; part < size; part += kPart) {
    for (std::int64_t i = 0; i < kArrays * stride; ++i) arrays[i] = 0;
    const std::int64_t part_end = size - part < kPart ? size : part + kPart;
    for (std::int64_t start = part; start < part_end; start += kChunk) {
      const std::int64_t count = part_end - start < kChunk ? part_end - start : kChunk;
      find_bins(load(run + start, count, buffer), count, bins, bin_count, index);
      std::int64_t i = 0;
      for (; i + kArrays <= count; i += kArrays) {
        for (std::int64_t k = 0; k < kArrays; ++k) ++arrays[k * stride + index[i + k]];
      }
      for (std::int64_t k = 0; i + k < count; ++k) ++arrays[k * stride + index[i + k]];
    }
    add_arrays(arrays, bin_count, counts);
  }
}

template <typename Element>
AIMET_HOST_DEVICE void histogram_box(const HistogramArguments& a, const Box& box,
                                     std::int64_t* counts) {
  using T = Compute<Element>;
  const Element* input = static_cast<const Element*>(a.input);
  const T* min = static_cast<const T*>(a.min);
  const T* max = static_cast<const T*>(a.max);
  const std::int64_t size = box.inner_end - box.inner_begin;
  const bool is_long = size >= 4 * a.bin_count && a.bin_count <= kMostBins;
  for (std::int64_t o = box.outer_begin; o < box.outer_end; ++o) {
    for (std::int64_t c = box.channel_begin; c < box.channel_end; ++c) {
      const core::Range<T> observed{min[c], max[c]};
      if (!core::is_observed(observed)) continue;
      const core::Range<T> bins = core::bin_range(observed);
      const Element* run =
          input + (o * a.shape.channels + c) * a.shape.inner + box.inner_begin;
      std::int64_t* of_channel = counts + c * a.bin_count;
      if (is_long) {
        count_long_run(run, size, bins, a.bin_count, of_channel);
      } else {
        count_short_run(run, size, bins, a.bin_count, of_channel);
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
