// Smallest and largest finite value of what passes. Minima do not depend on the order, so any order
// is right; only the sign of zero would, and the operators drop it.
#pragma once

#include "aimet/core/macros.h"
#include "aimet/core/rounding.h"

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
template <typename T>
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
      low_[k] = ((v < low_[k]) & (v >= -kLargest)) ? v : low_[k];
      high_[k] = ((v > high_[k]) & (v <= kLargest)) ? v : high_[k];
    }
  }

  AIMET_HOST_DEVICE void add_one(T x) { include(x, &rest_low_, &rest_high_); }

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
