#include "aimet/algorithms/tie_free.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>

namespace aimet {
namespace {

bool is_near(double multiplier, int64_t denominator, double tolerance, double* fraction) {
  const double q = static_cast<double>(denominator);
  const double p = std::nearbyint(multiplier * q);
  *fraction = p / q;
  return p > 0.0 && std::abs(*fraction / multiplier - 1.0) <= tolerance;
}

// Tries every odd denominator in [first, last].
bool find_among(double multiplier, int64_t first, int64_t last, double tolerance,
                double* fraction) {
  for (int64_t q = first | 1; q <= last; q += 2) {
    if (is_near(multiplier, q, tolerance, fraction)) return true;
  }
  return false;
}

double nearest_tie_free(double multiplier, double tolerance) {
  if (!(multiplier > 0.0) || !std::isfinite(multiplier)) return multiplier;
  double fraction = multiplier;
  if (multiplier > 0.125) {
    const bool is_found =
        find_among(multiplier, 1, kLargestTieFreeDenominator, tolerance, &fraction);
    return is_found ? fraction : multiplier;
  }
  // Most denominators q have no whole p near multiplier * q. So try the numerators p in turn: those
  // q that fit p lie in an interval, whose ends grow with p, so the first fit has the smallest q.
  // The interval is taken wider than rounding could move it; is_near decides.
  const double shortest = (1.0 - 1e-9) / (multiplier * (1.0 + tolerance));
  const double longest = (1.0 + 1e-9) / (multiplier * (1.0 - tolerance));
  for (double p = 1.0; p * shortest <= static_cast<double>(kLargestTieFreeDenominator); p += 1.0) {
    const int64_t first = static_cast<int64_t>(std::ceil(p * shortest));
    const double last = std::floor(p * longest);
    if (static_cast<double>(first | 1) > last) continue;  // no odd number between
    const int64_t end =
        static_cast<int64_t>(std::min(last, static_cast<double>(kLargestTieFreeDenominator)));
    if (find_among(multiplier, first, end, tolerance, &fraction)) return fraction;
  }
  return multiplier;
}

}  // namespace

at::Tensor tie_free_multiplier(const at::Tensor& multiplier, double tolerance) {
  const char* op = "tie_free_multiplier";
  TORCH_CHECK_TYPE(multiplier.is_floating_point(), op,
                   ": `multiplier` must have a floating-point dtype, got ",
                   multiplier.scalar_type());
  TORCH_CHECK_VALUE(tolerance > 0.0 && tolerance < 1.0, op,
                    ": `tolerance` must be between 0 and 1, got ", tolerance);
  const at::Tensor wanted = multiplier.detach().to(at::kCPU, at::kDouble).contiguous();
  at::Tensor result = at::empty(wanted.sizes(), wanted.options());
  const double* source = wanted.const_data_ptr<double>();
  double* target = result.mutable_data_ptr<double>();
  constexpr int64_t kGrain = 256;  // a number takes some ten to some hundred divisions
  at::parallel_for(0, wanted.numel(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) target[i] = nearest_tie_free(source[i], tolerance);
  });
  return result.to(multiplier.device());
}

}  // namespace aimet
