// Two smaller layers in place of one: low-rank factors of its weight.
//
// Every factorization is one of a matrix. With the weight as (o, s, p), s "slots" of o outputs that
// share the p inputs of the first layer, the factors are first (r, p) and second (o, s, r):
//
//   W[o, s, :] = sum over r of second[o, s, r] * first[r, :]
//
//   spatial             first (kh, 1), second (1, kw):  p = in * kh, s = kw        2 dimensions
//   only spatial_horizontal  first (1, kw), second (kh, 1):  p = in * kw, s = kh        2
//   dimensions only weight              first 1 x 1, second the kernel: p = in,      s = kh * kw
//   weight_output       first the kernel, second 1 x 1: p = in * kh * kw, s = 1
//
// Groups are factorized one by one, with the same rank each, and both layers have them. A
// transposed convolution becomes two of them, except that a 1 x 1 layer is an ordinary convolution.
//
// Source: Jaderberg et al. 2014 (arXiv 1405.3866), scheme 2; Tai et al. 2016 (arXiv 1511.06067):
// the truncated SVD is the global optimum; Denton et al. 2014 (arXiv 1404.0736); Zhang et al. 2015
// (arXiv 1505.06798), section 3.1: the error of the outputs instead of the weights.
#pragma once

#include "aimet/algorithms/layer.h"
#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

namespace aimet {

enum class Factorization { kSpatial, kSpatialHorizontal, kWeight, kWeightOutput };

// ValueError: `name` is none of the four above.
AIMET_API Factorization factorization_of(const char* op, const std::string& name);

struct LowRankCost {
  int64_t per_rank;  // of both layers for each rank
  int64_t full;      // of the layer itself, in the same unit
  int64_t max_rank;  // beyond, the factors only grow
};

// What ranks cost. Unit: weights where `counts_macs` is false, otherwise multiply-accumulates for
// each position of the output (of the input, if the layer is transposed); the layer in between is
// larger than the output by the stride that the second one has. Biases count as nothing.
//   weight_shape: as torch.nn stores it; stride: one entry a kernel dimension, none for Linear.
// ValueError: lengths do not fit. NotImplementedError: a spatial factorization of a kernel that
// does not have two dimensions.
AIMET_API LowRankCost low_rank_cost(at::IntArrayRef weight_shape, Factorization factorization,
                                    int64_t groups, bool is_transposed, at::IntArrayRef stride,
                                    bool counts_macs);

// The largest rank that costs at most `ratio` of the layer, at least 1; then up to a multiple of
// `multiplicity`, at most max_rank. AIMET's rounding.
// ValueError: `ratio` is not in (0, 1], `multiplicity` < 1.
AIMET_API int64_t rank_of_cost_ratio(const LowRankCost& cost, double ratio, int64_t multiplicity);

struct LowRankFactors {
  at::Tensor first, second;  // as torch.nn stores them
  at::Tensor error;          // () float64
};

// The factors next to the weight: SVD in float64, of each group. spatial: both factors get the
// square root of the singular values; weight: the second one gets all of them. Signs are LAPACK's.
// `error` is the share of the squared weights that is lost. Differentiable, on every device; in the
// weight's dtype. ValueError: `rank` is not within 1 and the largest one.
AIMET_API LowRankFactors low_rank_split(const Layer& layer, Factorization factorization,
                                        int64_t rank);

struct LowRankOptions {
  int64_t max_sweeps = 30;   // alternations between the two factors
  double tolerance = 1e-3;   // stop when a sweep lowers the error by less than this share
  int64_t max_products = 8;  // steps of conjugate gradients for the first factor in each sweep
};

// The factors with the least error of the layer's outputs, tr((T - W) H (T - W)^T).
//   target T: (groups, o, in / groups * kernel elements); gram H: (groups, d, d), positive
//   definite, from rounding_problem().
// With one slot (Linear, 1 x 1, weight_output) the global optimum: SVD of T L, H = L L^T. Otherwise
// alternating least squares, from the better of two starts: the second factor is solved for
// exactly, the first one by conjugate gradients. `error` is the sum over the groups, float64; the
// factors are float64 on the CPU. The same bits with any number of threads. ValueError: shapes do
// not fit, options are out of range.
AIMET_API LowRankFactors low_rank_fit(const at::Tensor& target, const at::Tensor& gram,
                                      const std::vector<int64_t>& kernel_size,
                                      Factorization factorization, int64_t rank, bool is_transposed,
                                      const LowRankOptions& options);

// The same for some ranks of one layer: decompositions of the weight and the data are made once.
AIMET_API std::vector<LowRankFactors> low_rank_fits(const at::Tensor& target,
                                                    const at::Tensor& gram,
                                                    const std::vector<int64_t>& kernel_size,
                                                    Factorization factorization,
                                                    const std::vector<int64_t>& ranks,
                                                    bool is_transposed,
                                                    const LowRankOptions& options);

// The weight, as torch.nn stores it, that two factors stand for. ValueError: they do not fit.
AIMET_API at::Tensor low_rank_product(const at::Tensor& first, const at::Tensor& second,
                                      Factorization factorization, int64_t groups,
                                      bool is_transposed);

}  // namespace aimet
