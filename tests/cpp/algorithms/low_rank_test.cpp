// Low-rank factors as a program without Python makes them: rank, truncation, fit to data.
#include "aimet/algorithms/low_rank.h"

#include "aimet/algorithms/layer_moments.h"
#include "aimet/algorithms/rounding.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <gtest/gtest.h>

namespace {

using aimet::Factorization;

TEST(LowRank, RanksAreThoseOfAimet) {
  const std::vector<int64_t> shape = {64, 64, 3, 3}, stride = {1, 1};
  const auto rank = [&](Factorization f) {
    return aimet::rank_of_cost_ratio(aimet::low_rank_cost(shape, f, 1, false, stride, true), 0.5,
                                     1);
  };
  EXPECT_EQ(rank(Factorization::kSpatial), 48);
  EXPECT_EQ(rank(Factorization::kWeight), 28);
}

TEST(LowRank, TwoConvolutionsComputeWhatTheirProductComputes) {
  const at::Tensor x = at::randn({2, 6, 11, 13}), weight = at::randn({8, 6, 3, 5});
  for (const auto f : {Factorization::kSpatial, Factorization::kSpatialHorizontal,
                       Factorization::kWeight, Factorization::kWeightOutput}) {
    const auto factors = aimet::low_rank_split({weight}, f, 4);
    const at::Tensor both = at::conv2d(at::conv2d(x, factors.first), factors.second);
    const at::Tensor product =
        aimet::low_rank_product(factors.first, factors.second, f, /*groups=*/1, false);
    EXPECT_TRUE(both.allclose(at::conv2d(x, product), 1e-4, 1e-4));
    const double lost = ((product - weight).square().sum() / weight.square().sum()).item<double>();
    EXPECT_NEAR(factors.error.item<double>(), lost, 1e-5);
  }
}

TEST(LowRank, FitsTheOutputsOfALayer) {
  at::manual_seed(5);
  const at::Tensor weight = at::randn({8, 4, 3, 3});
  const at::Tensor x = at::avg_pool2d(at::randn({8, 4, 16, 16}), {5, 5}, {1, 1});
  const at::Tensor y = at::conv2d(x, weight, {}, 1, 1);
  const auto sums = [](at::IntArrayRef shape) { return at::zeros(shape, at::kDouble); };
  aimet::LayerMoments moments{sums({1, 36, 36}), sums({1, 8, 36}), sums({1, 36}), sums({1, 8}),
                              sums({1})};
  aimet::accumulate_layer_moments_(moments, x, y, {{3, 3}, {1, 1}, {1, 1}, {1, 1}}, std::nullopt);
  const auto problem = aimet::rounding_problem(moments, weight.reshape({1, 8, 36}), false, 1e-4);
  const auto fitted = aimet::low_rank_fit(problem.target, problem.gram, {3, 3},
                                          Factorization::kSpatial, 3, false, {});
  const auto plain = aimet::low_rank_split({weight}, Factorization::kSpatial, 3);
  const auto error = [&](const aimet::LowRankFactors& f) {
    const at::Tensor product =
        aimet::low_rank_product(f.first, f.second, Factorization::kSpatial, 1, false);
    return (at::conv2d(x, product.to(at::kFloat), {}, 1, 1) - y).square().mean().item<double>();
  };
  EXPECT_LT(error(fitted), 0.6 * error(plain));
}

TEST(LowRank, RefusesRanksThatAreNone) {
  EXPECT_THROW(aimet::low_rank_split({at::randn({4, 3})}, Factorization::kWeight, 4), c10::Error);
  EXPECT_THROW(aimet::low_rank_split({at::randn({4, 3})}, Factorization::kSpatial, 1), c10::Error);
}

}  // namespace
