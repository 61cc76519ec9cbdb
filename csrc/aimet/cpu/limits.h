// Smallest and largest finite value of what passes. Minima do not depend on the order, so any order
// is right; only the sign of zero would, and the operators drop it.
#pragma once

#include "aimet/core/macros.h"
#include "aimet/core/rounding.h"
#include "aimet/cpu/elements.h"

#include <cstdint>

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

template <typename T>
AIMET_HOST_DEVICE void include(T x, T* low, T* high) {
  constexpr T kInfinity = static_cast<T>(__builtin_inff());
  const bool is_counted = core::is_finite(x);
  *low = core::minimum(*low, is_counted ? x : kInfinity);
  *high = core::maximum(*high, is_counted ? x : -kInfinity);
}

// Lanes are written as vectors, and several of them, since compilers would keep arrays in memory,
// where each comparison waits for the one before.
//
// Asking for each value whether it is finite takes longer than comparing it. Without
// `skips_infinities` only NaN is left out (it compares false), and `met_infinity` tells afterwards
// that it has to be done again, with it: data with infinities are rare.
template <typename T, bool skips_infinities = false>
class RunningLimits {
#if defined(__AVX512F__)
  static constexpr int kRegister = 64;  // bytes
#elif defined(__AVX__)
  static constexpr int kRegister = 32;
#else
  static constexpr int kRegister = 16;
#endif
  typedef T Vector __attribute__((vector_size(kRegister)));
  static constexpr int kWidth = kRegister / sizeof(T);
  static constexpr int kVectors = 4;
  static constexpr T kLargest = sizeof(T) == 4 ? T(0x1.fffffep127f) : T(0x1.fffffffffffffp1023);

 public:
  static constexpr std::int64_t kStep = kVectors * kWidth;

  AIMET_HOST_DEVICE RunningLimits() {
    const Vector infinity = Vector{} + static_cast<T>(__builtin_inff());
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) {
      low_[k] = infinity;
      high_[k] = -infinity;
    }
  }

  // kStep values.
  AIMET_HOST_DEVICE void add(const T* x) {
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) {
      Vector v;
      __builtin_memcpy(&v, x + k * kWidth, sizeof v);
      if constexpr (skips_infinities) {
        low_[k] = ((v < low_[k]) & (v >= -kLargest)) ? v : low_[k];
        high_[k] = ((v > high_[k]) & (v <= kLargest)) ? v : high_[k];
      } else {
        low_[k] = v < low_[k] ? v : low_[k];
        high_[k] = v > high_[k] ? v : high_[k];
      }
    }
  }

  AIMET_HOST_DEVICE void add_one(T x) { include(x, &rest_low_, &rest_high_); }

  AIMET_HOST_DEVICE bool met_infinity() const {
    T low;
    T high;
    result(&low, &high);
    return low < -kLargest || high > kLargest;
  }

  AIMET_HOST_DEVICE void result(T* low, T* high) const {
    Vector least = low_[0];
    Vector greatest = high_[0];
#pragma GCC unroll 4
    for (int k = 1; k < kVectors; ++k) {
      least = low_[k] < least ? low_[k] : least;
      greatest = high_[k] > greatest ? high_[k] : greatest;
    }
    *low = rest_low_;
    *high = rest_high_;
    for (int j = 0; j < kWidth; ++j) {
      *low = core::minimum(*low, least[j]);
      *high = core::maximum(*high, greatest[j]);
    }
  }

 private:
  Vector low_[kVectors];
  Vector high_[kVectors];
  T rest_low_ = static_cast<T>(__builtin_inff());
  T rest_high_ = static_cast<T>(-__builtin_inff());
};

// `count` values that follow each other.
template <bool skips_infinities, typename Element, typename T>
AIMET_HOST_DEVICE bool find_limits(const Element* values, std::int64_t count, T* low, T* high) {
  using Limits = RunningLimits<T, skips_infinities>;
  alignas(64) T buffer[kChunk];
  Limits found;
  for (std::int64_t start = 0; start < count; start += kChunk) {
    const std::int64_t size = count - start < kChunk ? count - start : kChunk;
    const T* x = load(values + start, size, buffer);
    std::int64_t i = 0;
    for (; i + Limits::kStep <= size; i += Limits::kStep) found.add(x + i);
    for (; i < size; ++i) found.add_one(x[i]);
  }
  found.result(low, high);
  return !found.met_infinity();
}

template <typename Element, typename T>
AIMET_HOST_DEVICE void min_max_of(const Element* values, std::int64_t count, T* low, T* high) {
  if (!find_limits<false>(values, count, low, high)) find_limits<true>(values, count, low, high);
}

// Of the tasks of one run, the first holds the limits of all: the others have observed nothing.
template <typename T>
AIMET_HOST_DEVICE void clear_other_tasks(std::int64_t count, T* low, T* high) {
  for (std::int64_t i = 1; i < count; ++i) {
    low[i] = static_cast<T>(__builtin_inff());
    high[i] = -low[i];
  }
}

}  // namespace
}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE
