// Ranges for a grid from histograms, for all channels at once. `histogram`: int64 (*min.sizes(),
// bins), bins of equal width over [min, max]. Results have the shape and dtype of `min` and hold
// zero; they are computed in float32. Where nothing was observed (empty histogram) the result is
// the minimal range. Deterministic. Not differentiable.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <tuple>

namespace aimet {

// Cuts the values beyond the percentile on either side off: limits are the left edges of the bins
// in which the cumulative count reaches 1 - percentile / 100 and percentile / 100. 100: the
// observed limits. 50 <= percentile <= 100.
AIMET_API std::tuple<at::Tensor, at::Tensor> range_from_percentile(
    const at::Tensor& histogram, const at::Tensor& min, const at::Tensor& max, double percentile,
    std::int64_t qmin, std::int64_t qmax, bool symmetric);

// Least squared error, where the error of clipped values counts `gamma` times (AIMET's
// "TF-enhanced" search). Candidates: symmetric: scales k / (symmetric_delta_candidates - 1) of the
// largest one; asymmetric: scales likewise, each with offset_candidates offsets.
AIMET_API std::tuple<at::Tensor, at::Tensor> range_from_sqnr(
    const at::Tensor& histogram, const at::Tensor& min, const at::Tensor& max, std::int64_t qmin,
    std::int64_t qmax, bool symmetric, std::int64_t asymmetric_delta_candidates = 17,
    std::int64_t symmetric_delta_candidates = 101, std::int64_t offset_candidates = 21,
    double gamma = 3.0);

// Least squared error. Both limits are free (symmetric: one), on a raster that gets finer around
// the best.
AIMET_API std::tuple<at::Tensor, at::Tensor> range_from_mse(const at::Tensor& histogram,
                                                            const at::Tensor& min,
                                                            const at::Tensor& max,
                                                            std::int64_t qmin, std::int64_t qmax,
                                                            bool symmetric);

// Least Kullback-Leibler divergence between the distributions before and after quantization (Migacz
// 2017).
AIMET_API std::tuple<at::Tensor, at::Tensor> range_from_entropy(const at::Tensor& histogram,
                                                                const at::Tensor& min,
                                                                const at::Tensor& max,
                                                                std::int64_t qmin,
                                                                std::int64_t qmax, bool symmetric);

}  // namespace aimet
