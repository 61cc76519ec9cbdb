// Rounds to small floating-point formats over raw pointers, and packs the mask of the
// straight-through gradient. The formulas are core/float_format.h's.
#include "aimet/core/float_format.h"
#include "aimet/cpu/elements.h"
#include "aimet/cpu/functions.h"
#include "aimet/cpu/mask_bits.h"
#include "aimet/cpu/runs.h"
#include "aimet/cpu/streams.h"

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

// One element; `flag` becomes 1 where the value is not beyond the largest number.
template <bool with_mask, bool is_scaled, typename T>
AIMET_HOST_DEVICE T apply(T x, T scale, const core::FloatRounding<T>& rounding,
                          std::uint8_t* flag) {
  const T ratio = is_scaled ? x / scale : x;
  if constexpr (with_mask) *flag = core::is_inside_format(ratio, rounding) ? 1 : 0;
  const T rounded = core::round_to_format(ratio, rounding);
  return is_scaled ? rounded * scale : rounded;
}

template <bool with_mask, typename Element>
void float_elements(const FloatFormatArguments& a, std::int64_t begin, std::int64_t end) {
  using T = Compute<Element>;
  const Element* input = static_cast<const Element*>(a.input);
  Element* output = static_cast<Element*>(a.output);
  const T* scales = static_cast<const T*>(a.scale);
  const core::FloatRounding<T> rounding = core::rounding_of<T>(a.grid);
  alignas(64) T loaded[kChunk];
  alignas(64) T staged[kChunk];
  alignas(64) Element lines[kChunk];  // of the result, where they are streamed
  alignas(64) std::uint8_t flags[kChunk];
  ChannelRuns<T> runs(scales, scales, a.shape);

  for (std::int64_t start = begin; start < end; start += kChunk) {
    const std::int64_t count = end - start < kChunk ? end - start : kChunk;
    const T* x = load(input + start, count, loaded);
    Element* target = a.is_streamed ? lines : output + start;
    T* y = staging(target, staged);
    runs.for_each(
        start, count,
        [&](std::int64_t first, std::int64_t length, T scale, T) {
          if (scale == T(1)) {  // formats of 16 bits: nothing to divide
            for (std::int64_t i = first; i < first + length; ++i)
              y[i] = apply<with_mask, false>(x[i], scale, rounding, flags + i);
          } else {
            for (std::int64_t i = first; i < first + length; ++i)
              y[i] = apply<with_mask, true>(x[i], scale, rounding, flags + i);
          }
        },
        [&](std::int64_t first, std::int64_t length, const T* scale, const T*) {
          for (std::int64_t i = 0; i < length; ++i)
            y[first + i] =
                apply<with_mask, true>(x[first + i], scale[i], rounding, flags + first + i);
        });
    if constexpr (with_mask) pack_bits(flags, count, a.mask + start / 8);
    store(staged, count, target);
    if (a.is_streamed) stream(lines, count, output + start);
  }
  if (a.is_streamed) finish_streams();
}

}  // namespace

void float_format(ElementType type, const FloatFormatArguments& arguments, std::int64_t begin,
                  std::int64_t end) {
  with_element_type(type, [&](auto tag) {
    using Element = typename decltype(tag)::type;
    return arguments.mask == nullptr ? float_elements<false, Element>(arguments, begin, end)
                                     : float_elements<true, Element>(arguments, begin, end);
  });
}

}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE
