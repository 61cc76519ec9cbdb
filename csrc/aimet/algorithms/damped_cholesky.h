// Lower Cholesky factor of a symmetric matrix that may be singular to the last bits.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_cholesky_ex.h>

namespace aimet {

// Where the factorization fails, a trace of the mean of the diagonal is added to it, more each time.
inline at::Tensor damped_cholesky(const at::Tensor& matrix) {
  const double mean = matrix.diagonal().mean().item<double>();
  for (double ridge = 0;; ridge = ridge == 0 ? 1e-12 : ridge * 100) {
    at::Tensor damped = matrix.clone();
    if (ridge > 0) damped.diagonal().add_(mean > 0 ? mean * ridge : 1.0);
    auto [factor, info] = at::linalg_cholesky_ex(damped);
    if (info.item<int>() == 0 || ridge > 1) return factor;
  }
}

}  // namespace aimet
