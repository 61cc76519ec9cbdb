// The operators of low_rank.h: flat arguments to its structs.
#include "aimet/algorithms/low_rank.h"

#include <torch/library.h>

#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace aimet {
namespace {

std::tuple<int64_t, int64_t, int64_t> cost_op(at::IntArrayRef weight_shape,
                                              const std::string& factorization, int64_t groups,
                                              bool transposed, at::IntArrayRef stride,
                                              bool counts_macs) {
  const LowRankCost cost =
      low_rank_cost(weight_shape, factorization_of("low_rank_cost", factorization), groups,
                    transposed, stride, counts_macs);
  return {cost.per_rank, cost.full, cost.max_rank};
}

int64_t rank_op(int64_t per_rank, int64_t full, int64_t max_rank, double ratio,
                int64_t multiplicity) {
  return rank_of_cost_ratio({per_rank, full, max_rank}, ratio, multiplicity);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> split_op(const at::Tensor& weight,
                                                        const std::string& factorization,
                                                        int64_t rank, int64_t groups,
                                                        bool transposed) {
  const LowRankFactors found = low_rank_split(
      {weight, {}, groups, transposed}, factorization_of("low_rank_split", factorization), rank);
  return {found.first, found.second, found.error};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> fit_op(
    const at::Tensor& target, const at::Tensor& gram, at::IntArrayRef kernel_size,
    const std::string& factorization, int64_t rank, bool transposed, int64_t max_sweeps,
    double tolerance, int64_t max_products) {
  const LowRankFactors found =
      low_rank_fit(target, gram, kernel_size.vec(), factorization_of("low_rank_fit", factorization),
                   rank, transposed, {max_sweeps, tolerance, max_products});
  return {found.first, found.second, found.error};
}

std::tuple<std::vector<at::Tensor>, std::vector<at::Tensor>, std::vector<at::Tensor>> fits_op(
    const at::Tensor& target, const at::Tensor& gram, at::IntArrayRef kernel_size,
    const std::string& factorization, at::IntArrayRef ranks, bool transposed, int64_t max_sweeps,
    double tolerance, int64_t max_products) {
  std::vector<at::Tensor> first, second, errors;
  for (LowRankFactors& found :
       low_rank_fits(target, gram, kernel_size.vec(),
                     factorization_of("low_rank_fit", factorization), ranks.vec(), transposed,
                     {max_sweeps, tolerance, max_products})) {
    first.push_back(std::move(found.first));
    second.push_back(std::move(found.second));
    errors.push_back(std::move(found.error));
  }
  return {std::move(first), std::move(second), std::move(errors)};
}

at::Tensor product_op(const at::Tensor& first, const at::Tensor& second,
                      const std::string& factorization, int64_t groups, bool transposed) {
  return low_rank_product(first, second, factorization_of("low_rank_product", factorization),
                          groups, transposed);
}

}  // namespace

TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("low_rank_cost", TORCH_FN(cost_op));
  m.impl("rank_of_cost_ratio", TORCH_FN(rank_op));
  m.impl("low_rank_split", TORCH_FN(split_op));
  m.impl("low_rank_fit", TORCH_FN(fit_op));
  m.impl("low_rank_fits", TORCH_FN(fits_op));
  m.impl("low_rank_product", TORCH_FN(product_op));
}

}  // namespace aimet
