#include "aimet/algorithms/tie_free.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <cmath>

namespace aimet {
namespace {

double nearest_tie_free(double multiplier, double tolerance) {
  if (!(multiplier > 0.0) || !std::isfinite(multiplier)) return multiplier;
  for (int64_t denominator = 1; denominator <= kLargestTieFreeDenominator; denominator += 2) {
    const double q = static_cast<double>(denominator);
    const double p = std::nearbyint(multiplier * q);
    if (p > 0.0 && std::abs(p / q / multiplier - 1.0) <= tolerance) return p / q;
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
  constexpr int64_t kGrain = 16;  // a number takes up to 10,000 divisions
  at::parallel_for(0, wanted.numel(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) target[i] = nearest_tie_free(source[i], tolerance);
  });
  return result.to(multiplier.device());
}

}  // namespace aimet
