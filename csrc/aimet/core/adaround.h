// Soft rounding of AdaRound: h(v) between 0 (down) and 1 (up), its regularizer, and one step of
// Adam on v. The only copy of these formulas.
//
// Source: Nagel et al. 2020 (AdaRound, arXiv 2004.10568), eq. 22 to 24; Kingma and Ba 2015 (Adam,
// arXiv 1412.6980), algorithm 1.
#pragma once

#include "aimet/core/affine.h"
#include "aimet/core/macros.h"
#include "aimet/core/rounding.h"

#include <cstdint>

namespace aimet::core {

// The sigmoid is stretched to [gamma, zeta], so that h reaches 0 and 1.
inline constexpr double kAdaroundZeta = 1.1;
inline constexpr double kAdaroundGamma = -0.1;

AIMET_HOST_DEVICE float exponential(float x) {
  return __builtin_expf(x);
}
AIMET_HOST_DEVICE double exponential(double x) {
  return __builtin_exp(x);
}
AIMET_HOST_DEVICE float logarithm(float x) {
  return __builtin_logf(x);
}
AIMET_HOST_DEVICE double logarithm(double x) {
  return __builtin_log(x);
}
AIMET_HOST_DEVICE float power(float x, float y) {
  return __builtin_powf(x, y);
}
AIMET_HOST_DEVICE double power(double x, double y) {
  return __builtin_pow(x, y);
}

template <typename T>
struct SoftRounding {
  T value;       // h(v)
  T derivative;  // h'(v)
};

template <typename T>
AIMET_HOST_DEVICE SoftRounding<T> soft_rounding(T v) {
  constexpr T width = T(kAdaroundZeta - kAdaroundGamma);
  const T sigmoid = T(1) / (T(1) + exponential(-v));
  const T stretched = sigmoid * width + T(kAdaroundGamma);
  const bool is_inside = stretched >= T(0) && stretched <= T(1);
  return {clamp(stretched, T(0), T(1)), is_inside ? width * sigmoid * (T(1) - sigmoid) : T(0)};
}

// v with h(v) = fraction, for 0 <= fraction < 1.
template <typename T>
AIMET_HOST_DEVICE T soft_rounding_inverse(T fraction) {
  constexpr T width = T(kAdaroundZeta - kAdaroundGamma);
  return -logarithm(width / (fraction - T(kAdaroundGamma)) - T(1));
}

// What remains of x / scale above the integer below it.
template <typename T>
AIMET_HOST_DEVICE T fraction_of_step(T x, T scale) {
  const T ratio = x / scale;
  return ratio - __builtin_floor(ratio);
}

template <typename T>
struct SoftWeight {
  T value;       // (clamp(floor(w / s) + h(v) - o, qmin, qmax) + o) * s
  T derivative;  // with respect to v
};

// `hard`: h is 0 or 1, as v >= 0 says, and has no derivative.
template <typename T>
AIMET_HOST_DEVICE SoftWeight<T> soft_weight(T weight, T v, const AffineParams<T>& p, bool hard) {
  const SoftRounding<T> h =
      hard ? SoftRounding<T>{v >= T(0) ? T(1) : T(0), T(0)} : soft_rounding(v);
  const T code = T(__builtin_floor(weight / p.scale)) + h.value - p.offset;
  const T derivative = is_inside_grid(code, p) ? h.derivative * p.scale : T(0);
  return {dequantize(clamp(code, p.qmin, p.qmax), p), derivative};
}

// 1 - |2 h - 1|^beta: 0 where h has decided.
template <typename T>
AIMET_HOST_DEVICE T rounding_regularizer(T h, T beta) {
  const T distance = T(2) * h - T(1);
  return T(1) - power(distance < T(0) ? -distance : distance, beta);
}

// Its derivative with respect to h.
template <typename T>
AIMET_HOST_DEVICE T rounding_regularizer_derivative(T h, T beta) {
  const T distance = T(2) * h - T(1);
  if (distance == T(0)) return T(0);
  const T magnitude = T(2) * beta * power(distance < T(0) ? -distance : distance, beta - T(1));
  return distance < T(0) ? magnitude : -magnitude;
}

// The exponent falls from `first` to `last` in half a cosine, once the warm start (a share of the
// iterations) is over; before, there is no regularizer: 0.
AIMET_HOST_DEVICE double annealed_beta(std::int64_t iteration, std::int64_t iterations,
                                       double first, double last, double warm_start) {
  const double begin = warm_start * static_cast<double>(iterations);
  const double now = static_cast<double>(iteration);
  if (now < begin) return 0;
  constexpr double kPi = 3.14159265358979323846;
  const double rest = static_cast<double>(iterations) - begin;
  const double relative = rest > 0 ? (now - begin) / rest : 1;
  return last + 0.5 * (first - last) * (1 + __builtin_cos(relative * kPi));
}

struct AdamSettings {
  double learning_rate;
  double beta1;
  double beta2;
  double epsilon;
  std::int64_t step;  // from 1
};

// One parameter's step; both moments are updated.
template <typename T>
AIMET_HOST_DEVICE T adam_step(T parameter, T gradient, T* first, T* second, T correction1,
                              T correction2, const AdamSettings& settings) {
  *first += (gradient - *first) * T(1 - settings.beta1);
  *second = *second * T(settings.beta2) + gradient * gradient * T(1 - settings.beta2);
  const T root = T(__builtin_sqrt(static_cast<double>(*second / correction2)));
  return parameter -
         T(settings.learning_rate) * (*first / correction1) / (root + T(settings.epsilon));
}

}  // namespace aimet::core
