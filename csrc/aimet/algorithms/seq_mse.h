// Sequential MSE: the range of each row of weights, or of each of its blocks, with the least
// squared error of the layer's output, tried one by one. The sums over the data are in the Gram
// matrix, so a candidate costs the same however much data there was.
//
// Source: AIMET's SeqMSE (candidates, independent blocks); the Gram form is exact, since
// sum |(w - x) a|^2 = (w - x) (sum a a^T) (w - x)^T.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <tuple>

namespace aimet {

// The candidates are k / num_candidates of [min, max], k = 1 .. num_candidates; ties keep the
// smaller.
//   weight: (groups, o, d); gram: (groups, d, d), not centred; min, max: (groups, o, blocks). Each
//   block is judged by its own part of the Gram matrix.
// Returns (range_min, range_max, loss), float64, (groups, o, blocks). ValueError: shapes do not
// fit.
AIMET_API std::tuple<at::Tensor, at::Tensor, at::Tensor> seq_mse_range(
    const at::Tensor& weight, const at::Tensor& gram, const at::Tensor& min, const at::Tensor& max,
    int64_t blocks, int64_t qmin, int64_t qmax, bool symmetric, int64_t num_candidates);

}  // namespace aimet
