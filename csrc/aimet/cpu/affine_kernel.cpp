// Quantize, dequantize and quantize-dequantize over raw pointers, and the mask of the
// straight-through gradient. The formulas are core/affine.h's; this file finds the scale of each
// element and keeps the loops vectorizable.
#include "aimet/core/affine.h"
#include "aimet/cpu/clamping.h"
#include "aimet/cpu/elements.h"
#include "aimet/cpu/functions.h"
#include "aimet/cpu/mask_bits.h"
#include "aimet/cpu/runs.h"
#include "aimet/cpu/streams.h"

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

// One element; `flag` becomes 1 where the value lies inside the grid.
template <AffineMode mode, bool with_mask, typename T>
AIMET_HOST_DEVICE T apply(T x, const core::AffineParams<T>& params, std::uint8_t* flag) {
  if constexpr (mode == AffineMode::kDequantize) return core::dequantize(x, params);
  if constexpr (mode == AffineMode::kQuantize) return core::quantize(x, params);
  if constexpr (!with_mask) return core::quantize_dequantize(x, params);
  const T unclamped = core::unclamped_code(x, params);
  *flag = core::is_inside_grid(unclamped, params) ? 1 : 0;
  return core::dequantize(core::clamp(unclamped, params.qmin, params.qmax), params);
}

template <AffineMode mode, bool with_mask, typename Element>
void affine_elements(const AffineArguments& a, std::int64_t begin, std::int64_t end) {
  using T = Compute<Element>;
  const Element* input = static_cast<const Element*>(a.input);
  Element* output = static_cast<Element*>(a.output);
  const T qmin = static_cast<T>(a.qmin);
  const T qmax = static_cast<T>(a.qmax);
  alignas(64) T loaded[kChunk];
  alignas(64) T clamped[kChunk];
  alignas(64) T staged[kChunk];
  alignas(64) Element lines[kChunk];  // of the result, where they are streamed
  alignas(64) std::uint8_t flags[kChunk];
  alignas(64) std::uint8_t passes[kChunk];
  const Clamping<Element> clamping(a.clamp);
  ChannelRuns<T> runs(static_cast<const T*>(a.scale), static_cast<const T*>(a.offset), a.shape);

  for (std::int64_t start = begin; start < end; start += kChunk) {
    const std::int64_t count = end - start < kChunk ? end - start : kChunk;
    const T* x = clamping.apply(load(input + start, count, loaded), count, clamped, passes);
    Element* target = a.is_streamed ? lines : output + start;
    T* y = staging(target, staged);
    runs.for_each(
        start, count,
        [&](std::int64_t first, std::int64_t length, T scale, T offset) {
          const core::AffineParams<T> params{scale, offset, qmin, qmax};
          for (std::int64_t i = first; i < first + length; ++i) {
            y[i] = apply<mode, with_mask>(x[i], params, flags + i);
          }
        },
        [&](std::int64_t first, std::int64_t length, const T* scale, const T* offset) {
          for (std::int64_t i = 0; i < length; ++i) {
            const core::AffineParams<T> params{scale[i], offset[i], qmin, qmax};
            y[first + i] = apply<mode, with_mask>(x[first + i], params, flags + first + i);
          }
        });
    if constexpr (with_mask) {
      clamping.stop_flags(flags, passes, count);
      pack_bits(flags, count, a.mask + start / 8);
    }
    store(staged, count, target);
    if (a.is_streamed) stream(lines, count, output + start);
  }
  if (a.is_streamed) finish_streams();
}

template <typename Bits>
void select_elements(const Bits* grad, const std::uint8_t* mask, Bits* output, std::int64_t begin,
                     std::int64_t end) {
  static constexpr Bits kBit[8] = {1, 2, 4, 8, 16, 32, 64, 128};
  std::int64_t i = begin;
  for (; i + 8 <= end; i += 8) {
    const Bits byte = mask[i / 8];
    for (int j = 0; j < 8; ++j) output[i + j] = (byte & kBit[j]) != 0 ? grad[i + j] : Bits(0);
  }
  for (; i < end; ++i) output[i] = (mask[i / 8] >> (i % 8)) & 1 ? grad[i] : Bits(0);
}

}  // namespace

void affine(ElementType type, AffineMode mode, const AffineArguments& arguments, std::int64_t begin,
            std::int64_t end) {
  with_element_type(type, [&](auto tag) {
    using Element = typename decltype(tag)::type;
    switch (mode) {
      case AffineMode::kQuantize:
        return affine_elements<AffineMode::kQuantize, false, Element>(arguments, begin, end);
      case AffineMode::kDequantize:
        return affine_elements<AffineMode::kDequantize, false, Element>(arguments, begin, end);
      case AffineMode::kQuantizeDequantize:
        return arguments.mask == nullptr
                   ? affine_elements<AffineMode::kQuantizeDequantize, false, Element>(arguments,
                                                                                      begin, end)
                   : affine_elements<AffineMode::kQuantizeDequantize, true, Element>(arguments,
                                                                                     begin, end);
    }
  });
}

void select_by_mask(int element_size, const void* grad, const std::uint8_t* mask, void* output,
                    std::int64_t begin, std::int64_t end) {
  const auto select = [&](auto zero) {
    using Bits = decltype(zero);
    select_elements(static_cast<const Bits*>(grad), mask, static_cast<Bits*>(output), begin, end);
  };
  if (element_size == 2) select(std::uint16_t{0});
  if (element_size == 4) select(std::uint32_t{0});
  if (element_size == 8) select(std::uint64_t{0});
}

}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE
