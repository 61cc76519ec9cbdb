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

  AIMET_HOST_DEVICE static Rank largest_of(const T* x, std::int64_t count) {
    Rank largest = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const Rank rank = core::magnitude_rank(x[i]);
      largest = rank > largest ? rank : largest;
    }
    return largest;
  }

  AIMET_HOST_DEVICE void round(const T* x, std::int64_t count, T scale, T divisor, T* y,
                               std::uint8_t* flags) const {
    for (std::int64_t i = 0; i < count; ++i) y[i] = element(x[i], {scale, divisor}, flags + i);
  }

  // Blocks of neighbors, one after the other: `count` elements in `block_count` blocks, of which
  // the last may be shorter.
  AIMET_HOST_DEVICE void row(std::int64_t start, std::int64_t count, std::int64_t block_count,
                             std::int64_t block_index) {
    alignas(64) T loaded[kChunk];
    alignas(64) T staged[kChunk];
    alignas(64) Element lines[kChunk];
    alignas(64) std::uint8_t flags[kChunk];
    alignas(64) T scale[kChunk];
    alignas(64) T divisor[kChunk];
    alignas(64) Rank largest[kChunk];
    const T* x = load(input + start, count, loaded);
    T* y = staging(target_of(start, lines), staged);
    // With a constant count the loops over a block are unrolled.
    constexpr std::int64_t kUsual = is_nvfp4 ? 16 : 32;
    const std::int64_t whole = a.block == kUsual ? count / kUsual : 0;
    for (std::int64_t j = 0; j < whole; ++j) largest[j] = largest_of(x + j * kUsual, kUsual);
    for (std::int64_t j = whole; j < block_count; ++j)
      largest[j] = largest_of(x + j * a.block, length_of(j, count));
    set_scales(largest, block_count, block_index, scale, divisor);
    for (std::int64_t j = 0; j < whole; ++j) {
      const std::int64_t i = j * kUsual;
      round(x + i, kUsual, scale[j], divisor[j], y + i, flags + i);
    }
    for (std::int64_t j = whole; j < block_count; ++j) {
      const std::int64_t i = j * a.block;
      round(x + i, length_of(j, count), scale[j], divisor[j], y + i, flags + i);
    }
    if constexpr (with_mask) pack_bits_from(flags, start, count, a.mask);
    finish(staged, lines, count, start);
  }

  // Elements of block j of a row() of `count`.
  AIMET_HOST_DEVICE std::int64_t length_of(std::int64_t j, std::int64_t count) const {
    const std::int64_t left = count - j * a.block;
    return left < a.block ? left : a.block;
  }

  // Units [begin, end) where blocks are neighbors: as many at once as fit the buffers.
  AIMET_HOST_DEVICE void rows(std::int64_t begin, std::int64_t end) {
    // Rows of whole blocks follow each other like the blocks of one row.
    const bool is_one_row = a.length % a.block == 0;
    const std::int64_t length = is_one_row ? a.outer * a.length : a.length;
    const std::int64_t blocks = is_one_row ? a.outer * a.blocks() : a.blocks();
    const std::int64_t at_once = kChunk / a.block;
    for (std::int64_t unit = begin; unit < end;) {
      const std::int64_t outer = unit / blocks;
      const std::int64_t block = unit - outer * blocks;
      const std::int64_t left = end - unit < blocks - block ? end - unit : blocks - block;
      const std::int64_t block_count = left < at_once ? left : at_once;
      const std::int64_t elements_left = length - block * a.block;
      const std::int64_t full = block_count * a.block;
      row(outer * length + block * a.block, full < elements_left ? full : elements_left,
          block_count, unit);
      unit += block_count;
    }
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
    set_scales(largest, inner, block_index, scale, divisor);
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
    set_scales(largest, width, block_index, scale, divisor);
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

  AIMET_HOST_DEVICE void set_scales(const Rank* largest, std::int64_t count,
                                    std::int64_t block_index, T* scale, T* divisor) {
    for (std::int64_t j = 0; j < count; ++j) {
      const core::BlockScale<T> block = core::block_scale<is_nvfp4, T>(largest[j], rule);
      scale[j] = block.scale;
      divisor[j] = block.divisor;
    }
    if (scales == nullptr) return;
    for (std::int64_t j = 0; j < count; ++j) scales[block_index + j] = scale[j];
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
    if (tiles == 1 && rows * a.inner <= kChunk) return narrow(start, rows, block_index);
    columns(start, rows, columns_left < kColumns ? columns_left : kColumns, block_index);
  }
};

template <bool is_nvfp4, bool with_mask, typename Element>
void units(const MicroscalingArguments& arguments, std::int64_t begin, std::int64_t end) {
  Microscaling<is_nvfp4, with_mask, Element> microscaling{arguments};
  if (arguments.inner == 1) {
    microscaling.rows(begin, end);
  } else {
    for (std::int64_t unit = begin; unit < end; ++unit) microscaling.unit(unit);
  }
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
