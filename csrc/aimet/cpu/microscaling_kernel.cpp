// Finds the scale of each block and rounds its elements, while the block is in the cache. The
// formulas are core/microscaling.h's and core/float_format.h's.
#include "aimet/core/microscaling.h"

#include "aimet/cpu/elements.h"
#include "aimet/cpu/functions.h"
#include "aimet/cpu/mask_bits.h"
#include "aimet/cpu/streams.h"

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

template <bool is_nvfp4, bool with_mask, typename Element>
struct Microscaling {
  using T = Compute<Element>;
  using Rank = typename core::FloatBits<T>::Signed;
  static constexpr std::int64_t kColumns = MicroscalingArguments::kColumns;

  const MicroscalingArguments& a;
  const Element* input = static_cast<const Element*>(a.input);
  Element* output = static_cast<Element*>(a.output);
  T* scales = static_cast<T*>(a.scale);
  core::FloatRounding<T> rounding = core::rounding_of<T>(a.grid);
  core::BlockScaleRule<T> rule = {
      a.grid.max_exponent, is_nvfp4 ? *static_cast<const T*>(a.tensor_scale) : T(1),
      core::rounding_of<T>(core::nvfp4_scale_grid())};

  AIMET_HOST_DEVICE T element(T x, const core::BlockScale<T>& block, std::uint8_t* flag) const {
    const T ratio = core::block_ratio<is_nvfp4>(x, block.divisor);
    if constexpr (with_mask) *flag = core::is_inside_format(ratio, rounding) ? 1 : 0;
    return core::round_to_format(ratio, rounding) * block.scale;
  }

  // Where results from `start` on are written to, and from there to memory.
  AIMET_HOST_DEVICE Element* target_of(std::int64_t start, Element* lines) const {
    return a.is_streamed ? lines : output + start;
  }
  AIMET_HOST_DEVICE void finish(const T* staged, Element* lines, std::int64_t count,
                                std::int64_t start) const {
    store(staged, count, target_of(start, lines));
    if (a.is_streamed) stream(lines, count, output + start);
  }

  // One block of `count` neighbors. Inlined with a constant count, the loops are unrolled.
  AIMET_HOST_DEVICE void row(std::int64_t start, std::int64_t count, std::int64_t block_index) {
    alignas(64) T loaded[kChunk];
    alignas(64) T staged[kChunk];
    alignas(64) Element lines[kChunk];
    alignas(64) std::uint8_t flags[kChunk];
    const T* x = load(input + start, count, loaded);
    T* y = staging(target_of(start, lines), staged);
    Rank largest = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const Rank rank = core::magnitude_rank(x[i]);
      largest = rank > largest ? rank : largest;
    }
    const core::BlockScale<T> block = core::block_scale<is_nvfp4, T>(largest, rule);
    if (scales != nullptr) scales[block_index] = block.scale;
    for (std::int64_t i = 0; i < count; ++i) y[i] = element(x[i], block, flags + i);
    if constexpr (with_mask) pack_bits_from(flags, start, count, a.mask);
    finish(staged, lines, count, start);
  }

  // Blocks of `rows` rows of a few columns each: all of them together are neighbors in memory.
  AIMET_HOST_DEVICE void narrow(std::int64_t start, std::int64_t rows, std::int64_t block_index) {
    alignas(64) T loaded[kChunk];
    alignas(64) T staged[kChunk];
    alignas(64) Element lines[kChunk];
    alignas(64) std::uint8_t flags[kChunk];
    alignas(64) T scale[kChunk];
    alignas(64) T divisor[kChunk];
    Rank largest[kChunk];
    const std::int64_t inner = a.inner;
    const std::int64_t count = rows * inner;
    const T* x = load(input + start, count, loaded);
    T* y = staging(target_of(start, lines), staged);
    for (std::int64_t c = 0; c < inner; ++c) largest[c] = 0;
    for (std::int64_t i = 0; i < count; i += inner) take_largest(x + i, inner, largest);
    for (std::int64_t c = 0; c < inner; ++c)
      set_scale(largest[c], block_index + c, scale + c, divisor + c);
    for (std::int64_t i = inner; i < count; ++i) {
      scale[i] = scale[i - inner];
      divisor[i] = divisor[i - inner];
    }
    for (std::int64_t i = 0; i < count; ++i)
      y[i] = element(x[i], {scale[i], divisor[i]}, flags + i);
    if constexpr (with_mask) pack_bits_from(flags, start, count, a.mask);
    finish(staged, lines, count, start);
  }

  // `width` blocks beside each other: every column is a block.
  AIMET_HOST_DEVICE void columns(std::int64_t start, std::int64_t rows, std::int64_t width,
                                 std::int64_t block_index) {
    alignas(64) T loaded[kColumns];
    alignas(64) T staged[kColumns];
    alignas(64) Element lines[kColumns];
    alignas(64) std::uint8_t flags[kColumns];
    alignas(64) T scale[kColumns];
    alignas(64) T divisor[kColumns];
    alignas(64) Rank largest[kColumns];
    for (std::int64_t c = 0; c < width; ++c) largest[c] = 0;
    for (std::int64_t r = 0; r < rows; ++r)
      take_largest(load(input + start + r * a.inner, width, loaded), width, largest);
    for (std::int64_t c = 0; c < width; ++c)
      set_scale(largest[c], block_index + c, scale + c, divisor + c);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t first = start + r * a.inner;
      const T* x = load(input + first, width, loaded);
      T* y = staging(target_of(first, lines), staged);
      for (std::int64_t c = 0; c < width; ++c)
        y[c] = element(x[c], {scale[c], divisor[c]}, flags + c);
      if constexpr (with_mask) pack_bits_from(flags, first, width, a.mask);
      finish(staged, lines, width, first);
    }
  }

  AIMET_HOST_DEVICE void take_largest(const T* x, std::int64_t width, Rank* largest) const {
    for (std::int64_t c = 0; c < width; ++c) {
      const Rank rank = core::magnitude_rank(x[c]);
      largest[c] = rank > largest[c] ? rank : largest[c];
    }
  }

  AIMET_HOST_DEVICE void set_scale(Rank largest, std::int64_t index, T* scale, T* divisor) {
    const core::BlockScale<T> block = core::block_scale<is_nvfp4, T>(largest, rule);
    *scale = block.scale;
    *divisor = block.divisor;
    if (scales != nullptr) scales[index] = block.scale;
  }

  AIMET_HOST_DEVICE void unit(std::int64_t index) {
    const std::int64_t tiles = a.tiles();
    const std::int64_t blocks = a.blocks();
    const std::int64_t first_column = index % tiles * kColumns;
    const std::int64_t slice = index / tiles;  // (outer, block)
    const std::int64_t block = slice % blocks;
    const std::int64_t first_row = block * a.block;
    const std::int64_t rows = a.length - first_row < a.block ? a.length - first_row : a.block;
    const std::int64_t start = (slice / blocks * a.length + first_row) * a.inner + first_column;
    const std::int64_t block_index = slice * a.inner + first_column;
    const std::int64_t columns_left = a.inner - first_column;
    if (a.inner == 1) {
      constexpr std::int64_t kUsual = is_nvfp4 ? 16 : 32;
      if (rows == kUsual) return row(start, kUsual, block_index);
      return row(start, rows, block_index);
    }
    if (tiles == 1 && rows * a.inner <= kChunk) return narrow(start, rows, block_index);
    columns(start, rows, columns_left < kColumns ? columns_left : kColumns, block_index);
  }
};

template <bool is_nvfp4, bool with_mask, typename Element>
void units(const MicroscalingArguments& arguments, std::int64_t begin, std::int64_t end) {
  Microscaling<is_nvfp4, with_mask, Element> microscaling{arguments};
  for (std::int64_t unit = begin; unit < end; ++unit) microscaling.unit(unit);
  if (arguments.is_streamed) finish_streams();
}

}  // namespace

void microscaling(ElementType type, const MicroscalingArguments& arguments, std::int64_t begin,
                  std::int64_t end) {
  with_element_type(type, [&](auto tag) {
    using Element = typename decltype(tag)::type;
    const bool is_nvfp4 = arguments.tensor_scale != nullptr;
    if (arguments.mask == nullptr) {
      return is_nvfp4 ? units<true, false, Element>(arguments, begin, end)
                      : units<false, false, Element>(arguments, begin, end);
    }
    return is_nvfp4 ? units<true, true, Element>(arguments, begin, end)
                    : units<false, true, Element>(arguments, begin, end);
  });
}

}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE
