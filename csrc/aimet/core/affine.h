// The affine grid x = (q + offset) * scale: quantize, dequantize, and the straight-through
// gradient. The only copy of these formulas; CPU and CUDA kernels include it,
// tests/reference/affine.py mirrors it.
//
// Source: Jacob et al. 2018 (arXiv 1712.05877) eq. 1, with offset = -zero_point; gradient of scale
// and offset: Esser et al. 2020 (arXiv 1902.08153), Bhalgat et al. 2020 (arXiv 2004.09576).
#pragma once

#include "aimet/core/macros.h"
#include "aimet/core/rounding.h"

namespace aimet::core {

template <typename T>
struct AffineParams {
  T scale;
  T offset;
  T qmin;
  T qmax;
};

// The code before clamping. A true division: x * (1 / scale) differs in the last bit and moves
// ties.
template <typename T>
AIMET_HOST_DEVICE T unclamped_code(T x, const AffineParams<T>& p) {
  return round_half_even(x / p.scale) - p.offset;
}

template <typename T>
AIMET_HOST_DEVICE T quantize(T x, const AffineParams<T>& p) {
  return clamp(unclamped_code(x, p), p.qmin, p.qmax);
}

template <typename T>
AIMET_HOST_DEVICE T dequantize(T q, const AffineParams<T>& p) {
  return (q + p.offset) * p.scale;
}

template <typename T>
AIMET_HOST_DEVICE T quantize_dequantize(T x, const AffineParams<T>& p) {
  return dequantize(quantize(x, p), p);
}

// False for NaN.
template <typename T>
AIMET_HOST_DEVICE bool is_inside_grid(T unclamped, const AffineParams<T>& p) {
  return (unclamped >= p.qmin) & (unclamped <= p.qmax);
}

template <typename T>
struct AffineGradient {
  T input;
  T scale;
  T offset;
};

// Straight-through estimator: rounding has derivative 1, clamping 0 outside the grid.
template <typename T>
AIMET_HOST_DEVICE AffineGradient<T> quantize_dequantize_gradient(T grad, T x,
                                                                 const AffineParams<T>& p) {
  const T ratio = x / p.scale;
  const T rounded = round_half_even(ratio);
  const T unclamped = rounded - p.offset;
  const bool inside = is_inside_grid(unclamped, p);
  const T limit = clamp(unclamped, p.qmin, p.qmax) + p.offset;
  return {inside ? grad : T(0), grad * (inside ? rounded - ratio : limit),
          inside ? T(0) : grad * p.scale};
}

}  // namespace aimet::core
