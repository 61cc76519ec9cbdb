// Smallest and largest finite value per task of the Reduction.
#include "aimet/cpu/elements.h"
#include "aimet/cpu/functions.h"
#include "aimet/cpu/limits.h"

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

// Tasks [begin, end) of one run. The first one's partial result is that of all, which keeps the
// lanes at work: the others observe nothing.
template <typename Element>
AIMET_HOST_DEVICE void min_max_run(const MinMaxArguments& a, std::int64_t begin, std::int64_t end) {
  using T = Compute<Element>;
  const std::int64_t chunks = a.reduction.chunks_per_run();
  const std::int64_t inner = a.reduction.shape.inner;
  const std::int64_t run = begin / chunks;
  const std::int64_t first = (begin - run * chunks) * kChunk;
  const std::int64_t last = (end - run * chunks) * kChunk;
  const std::int64_t count = (last < inner ? last : inner) - first;
  const Element* values = static_cast<const Element*>(a.input) + run * inner + first;
  T* low = static_cast<T*>(a.partial_min) + begin;
  T* high = static_cast<T*>(a.partial_max) + begin;
  min_max_of(values, count, low, high);
  clear_other_tasks(end - begin, low, high);
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
      const std::int64_t chunks = arguments.reduction.chunks_per_run();
      for (std::int64_t task = begin; task < end;) {
        const std::int64_t run_end = (task / chunks + 1) * chunks;
        const std::int64_t stop = run_end < end ? run_end : end;
        min_max_run<Element>(arguments, task, stop);
        task = stop;
      }
    }
  });
}

}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE
