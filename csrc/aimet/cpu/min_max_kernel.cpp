// Smallest and largest finite value per task of the Reduction. Minima do not depend on the order,
// so any split is right; only the sign of zero would, and the operators drop it.
#include "aimet/core/rounding.h"
#include "aimet/cpu/elements.h"
#include "aimet/cpu/functions.h"

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

template <typename T>
AIMET_HOST_DEVICE void include(T x, T* low, T* high) {
  constexpr T kInfinity = static_cast<T>(__builtin_inff());
  const bool is_counted = core::is_finite(x);
  *low = core::minimum(*low, is_counted ? x : kInfinity);
  *high = core::maximum(*high, is_counted ? x : -kInfinity);
}

// Limits of `count` values that follow each other. Any order is right; lanes are written as vectors,
// and several of them, since compilers would keep arrays in memory, where each comparison waits for
// the one before.
template <typename Element, typename T>
AIMET_HOST_DEVICE void min_max_of(const Element* values, std::int64_t count, T* result_low,
                                  T* result_high) {
#if defined(__AVX512F__)
  constexpr int kRegister = 64;  // bytes
#elif defined(__AVX__)
  constexpr int kRegister = 32;
#else
  constexpr int kRegister = 16;
#endif
  typedef T Vector __attribute__((vector_size(kRegister)));
  constexpr int kWidth = kRegister / sizeof(T);
  constexpr int kVectors = 4;
  constexpr T kLargest = sizeof(T) == 4 ? T(0x1.fffffep127f) : T(0x1.fffffffffffffp1023);
  alignas(64) T buffer[kChunk];
  const Vector infinity = Vector{} + static_cast<T>(__builtin_inff());
  Vector low[kVectors];
  Vector high[kVectors];
#pragma GCC unroll 4
  for (int k = 0; k < kVectors; ++k) {
    low[k] = infinity;
    high[k] = -infinity;
  }
  *result_low = infinity[0];
  *result_high = -infinity[0];
  for (std::int64_t start = 0; start < count; start += kChunk) {
    const std::int64_t size = count - start < kChunk ? count - start : kChunk;
    const T* x = load(values + start, size, buffer);
    std::int64_t i = 0;
    for (; i + kVectors * kWidth <= size; i += kVectors * kWidth) {
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) {
        Vector v;
        __builtin_memcpy(&v, x + i + k * kWidth, sizeof v);
        low[k] = ((v < low[k]) & (v >= -kLargest)) ? v : low[k];
        high[k] = ((v > high[k]) & (v <= kLargest)) ? v : high[k];
      }
    }
    for (; i < size; ++i) include(x[i], result_low, result_high);
  }
  if (count < kVectors * kWidth) return;
#pragma GCC unroll 4
  for (int k = 1; k < kVectors; ++k) {
    low[0] = low[k] < low[0] ? low[k] : low[0];
    high[0] = high[k] > high[0] ? high[k] : high[0];
  }
  for (int j = 0; j < kWidth; ++j) {
    *result_low = core::minimum(*result_low, low[0][j]);
    *result_high = core::maximum(*result_high, high[0][j]);
  }
}

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
  for (std::int64_t i = 1; i < end - begin; ++i) {
    low[i] = static_cast<T>(__builtin_inff());
    high[i] = -low[i];
  }
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
