// Smallest and largest finite value per task of the Reduction. Minima do not depend on the order,
// so any split is right; only the sign of zero would, and the operators drop it.
#include "aimet/core/rounding.h"
#include "aimet/cpu/elements.h"
#include "aimet/cpu/functions.h"
#include "aimet/cpu/lanes.h"

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

template <typename T>
AIMET_HOST_DEVICE void include(T x, T* low, T* high) {
  constexpr T kInfinity = static_cast<T>(__builtin_inff());
  const bool is_counted = core::is_finite(x);
  *low = core::minimum(*low, is_counted ? x : kInfinity);
  *high = core::maximum(*high, is_counted ? x : -kInfinity);
}

template <typename Element>
AIMET_HOST_DEVICE void min_max_row(const MinMaxArguments& a, std::int64_t task) {
  using T = Compute<Element>;
  const std::int64_t chunks = a.reduction.chunks_per_run();
  const std::int64_t inner = a.reduction.shape.inner;
  const std::int64_t first = (task % chunks) * kChunk;
  const std::int64_t count = inner - first < kChunk ? inner - first : kChunk;
  alignas(64) T buffer[kChunk];
  const T* x =
      load(static_cast<const Element*>(a.input) + (task / chunks) * inner + first, count, buffer);
  alignas(64) T low[kLanes];
  alignas(64) T high[kLanes];
  for (int j = 0; j < kLanes; ++j) {
    low[j] = static_cast<T>(__builtin_inff());
    high[j] = -low[j];
  }
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) include(x[i + j], low + j, high + j);
  }
  for (int j = 0; i + j < count; ++j) include(x[i + j], low + j, high + j);
  for (int j = 1; j < kLanes; ++j) {
    low[0] = core::minimum(low[0], low[j]);
    high[0] = core::maximum(high[0], high[j]);
  }
  static_cast<T*>(a.partial_min)[task] = low[0];
  static_cast<T*>(a.partial_max)[task] = high[0];
}

template <typename Element>
AIMET_HOST_DEVICE void min_max_column_tile(const MinMaxArguments& a, std::int64_t task) {
  using T = Compute<Element>;
  const std::int64_t columns = a.reduction.columns();
  const std::int64_t tiles = a.reduction.column_tiles();
  const std::int64_t block = task / tiles;
  const std::int64_t first = (task % tiles) * kChunk;
  const std::int64_t count = columns - first < kChunk ? columns - first : kChunk;
  const std::int64_t row_begin = block * Reduction::kRowBlock;
  const std::int64_t rows_left = a.reduction.shape.outer - row_begin;
  const std::int64_t row_end =
      row_begin + (rows_left < Reduction::kRowBlock ? rows_left : Reduction::kRowBlock);
  T* low = static_cast<T*>(a.partial_min) + block * columns + first;
  T* high = static_cast<T*>(a.partial_max) + block * columns + first;
  for (std::int64_t i = 0; i < count; ++i) {
    low[i] = static_cast<T>(__builtin_inff());
    high[i] = -low[i];
  }
  alignas(64) T buffer[kChunk];
  for (std::int64_t row = row_begin; row < row_end; ++row) {
    const T* x = load(static_cast<const Element*>(a.input) + row * columns + first, count, buffer);
    for (std::int64_t i = 0; i < count; ++i) include(x[i], low + i, high + i);
  }
}

}  // namespace

void min_max(ElementType type, const MinMaxArguments& arguments, std::int64_t begin,
             std::int64_t end) {
  with_element_type(type, [&](auto tag) {
    using Element = typename decltype(tag)::type;
    if (arguments.reduction.is_by_columns()) {
      for (std::int64_t task = begin; task < end; ++task)
        min_max_column_tile<Element>(arguments, task);
    } else {
      for (std::int64_t task = begin; task < end; ++task) min_max_row<Element>(arguments, task);
    }
  });
}

}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE
