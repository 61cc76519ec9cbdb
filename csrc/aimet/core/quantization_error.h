// What rounding one value to a grid does: its error, and what that does to a loss, to first order.
#pragma once

#include "aimet/core/affine.h"
#include "aimet/core/macros.h"
#include "aimet/core/rounding.h"

namespace aimet::core {

// Of one value, or sums of such.
template <typename T>
struct QuantizationError {
  T error;    // quantized less original
  T change;   // grad * error: change of the loss
  T clipped;  // 1 beyond the limits of the grid
};

template <typename T>
AIMET_HOST_DEVICE QuantizationError<T> quantization_error(T x, T grad, const AffineParams<T>& p) {
  const T unclamped = unclamped_code(x, p);
  const T error = dequantize(clamp(unclamped, p.qmin, p.qmax), p) - x;
  return {error, grad * error, is_inside_grid(unclamped, p) ? T(0) : T(1)};
}

}  // namespace aimet::core
