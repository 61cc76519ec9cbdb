// An activation function that clamps (ReLU, ReLU6, Hardtanh), applied to a chunk before it is
// quantized, and its gradient. The same bits as at::clamp and at::hardtanh_backward: the former
// rounds the bounds to the element type, the latter compares with them in the compute type.
#pragma once

#include "aimet/core/rounding.h"
#include "aimet/cpu/elements.h"
#include "aimet/cpu/kernels.h"

#include <cstdint>

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

AIMET_HOST_DEVICE float rounded_to(Tag<float>, double x) {
  return static_cast<float>(x);
}
AIMET_HOST_DEVICE double rounded_to(Tag<double>, double x) {
  return x;
}
AIMET_HOST_DEVICE float rounded_to(Tag<Half>, double x) {
  return to_float(to_half(static_cast<float>(x)));
}
AIMET_HOST_DEVICE float rounded_to(Tag<BFloat16>, double x) {
  return to_float(to_bfloat16(static_cast<float>(x)));
}

template <typename Element>
class Clamping {
 public:
  using T = Compute<Element>;

  AIMET_HOST_DEVICE explicit Clamping(const core::ClampFirst& clamp)
      : is_wanted_(clamp.is_wanted),
        low_(rounded_to(Tag<Element>{}, clamp.low)),
        high_(rounded_to(Tag<Element>{}, clamp.high)),
        passes_above_(static_cast<T>(clamp.low)),
        passes_below_(static_cast<T>(clamp.high)) {}

  // The clamped values, in `clamped`, and in `passes` 1 where the gradient passes; `x` itself,
  // with nothing written, where no clamp is wanted.
  AIMET_HOST_DEVICE const T* apply(const T* x, std::int64_t count, T* clamped,
                                   std::uint8_t* passes) const {
    if (!is_wanted_) return x;
    for (std::int64_t i = 0; i < count; ++i) {
      clamped[i] = core::clamp(x[i], low_, high_);
      passes[i] = (x[i] > passes_above_) & (x[i] < passes_below_) ? 1 : 0;
    }
    return clamped;
  }

  // Clears the flags of elements whose gradient the clamp stops.
  AIMET_HOST_DEVICE void stop_flags(std::uint8_t* flags, const std::uint8_t* passes,
                                  std::int64_t count) const {
    if (!is_wanted_) return;
    for (std::int64_t i = 0; i < count; ++i) flags[i] &= passes[i];
  }

  // Clears the gradients of elements whose gradient the clamp stops.
  AIMET_HOST_DEVICE void stop_gradients(T* grad, const std::uint8_t* passes, std::int64_t count) const {
    if (!is_wanted_) return;
    for (std::int64_t i = 0; i < count; ++i) grad[i] = passes[i] != 0 ? grad[i] : T(0);
  }

 private:
  bool is_wanted_;
  T low_;
  T high_;
  T passes_above_;
  T passes_below_;
};

}  // namespace
}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE
