// Folded layers compute what layer and batch normalization computed, for every layer type.
#include "aimet/algorithms/batch_norm_folding.h"

#include <ATen/ops/batch_norm.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <c10/util/Exception.h>

#include <gtest/gtest.h>

#include "networks.h"

#include <cmath>
#include <limits>
#include <string>

namespace aimet::test {
namespace {

struct BatchNorm {
  at::Tensor mean, variance, gamma, beta;
  double eps = 1e-3;

  explicit BatchNorm(int64_t channels)
      : mean(at::randn({channels}, at::kDouble)),
        variance(at::rand({channels}, at::kDouble) + 0.1),
        gamma(at::randn({channels}, at::kDouble)),
        beta(at::randn({channels}, at::kDouble)) {}

  at::Tensor run(const at::Tensor& input) const {
    return at::batch_norm(input, gamma, beta, mean, variance, false, 0.1, eps, false);
  }
};

std::optional<at::Tensor> optional_bias(const Layer& layer) {
  return layer.bias.defined() ? std::optional<at::Tensor>(layer.bias) : std::nullopt;
}

Layer folded(const Layer& layer, const BatchNorm& norm, bool into_next) {
  const auto [weight, bias] =
      fold_batch_norm(layer.weight, optional_bias(layer), norm.mean, norm.variance, norm.gamma,
                      norm.beta, norm.eps, layer.groups, layer.is_transposed, into_next);
  return {weight, bias, layer.groups, layer.is_transposed};
}

struct Case {
  const char* name;
  int64_t spatial;
  int64_t groups;
  bool transposed;
  bool has_bias;
};

class EveryLayer : public testing::TestWithParam<Case> {};

TEST_P(EveryLayer, AbsorbsTheNormalizationBehindIt) {
  const Case& c = GetParam();
  const Layer layer = random_layer(c.spatial, c.groups, c.transposed, c.has_bias);
  const BatchNorm norm(outputs_of(layer));
  const at::Tensor input = random_input(layer);
  const at::Tensor expected = norm.run(run(layer, input));
  EXPECT_LT(largest_difference(run(folded(layer, norm, false), input), expected), 1e-12);
}

TEST_P(EveryLayer, AbsorbsTheNormalizationBeforeIt) {
  const Case& c = GetParam();
  const Layer layer = random_layer(c.spatial, c.groups, c.transposed, c.has_bias);
  const BatchNorm norm(inputs_of(layer));
  if (c.transposed) {
    EXPECT_THROW(folded(layer, norm, true), c10::NotImplementedError);
    return;
  }
  const at::Tensor input = random_input(layer);
  const at::Tensor expected = run(layer, norm.run(input));
  EXPECT_LT(largest_difference(run(folded(layer, norm, true), input), expected), 1e-11);
}

INSTANTIATE_TEST_SUITE_P(
    Layers, EveryLayer,
    testing::Values(Case{"linear", 0, 1, false, true},
                    Case{"linear_without_bias", 0, 1, false, false},
                    Case{"conv1d", 1, 1, false, true}, Case{"conv2d", 2, 1, false, true},
                    Case{"conv3d", 3, 1, false, false}, Case{"conv2d_grouped", 2, 3, false, false},
                    Case{"conv_transpose1d", 1, 1, true, false},
                    Case{"conv_transpose2d_grouped", 2, 3, true, true},
                    Case{"conv_transpose3d", 3, 2, true, true}),
    [](const testing::TestParamInfo<Case>& tested) { return std::string(tested.param.name); });

TEST(FoldBatchNorm, IsRoundedOnceFromFloat64) {
  const Layer exact = random_layer(2, 1, false, true);
  const BatchNorm norm(outputs_of(exact));
  const Layer half{exact.weight.to(at::kHalf), exact.bias.to(at::kHalf)};
  const Layer same{half.weight.to(at::kDouble), half.bias.to(at::kDouble)};
  const Layer result = folded(half, norm, false);
  EXPECT_EQ(result.weight.scalar_type(), at::kHalf);
  EXPECT_TRUE(result.weight.equal(folded(same, norm, false).weight.to(at::kHalf)));
  EXPECT_TRUE(result.bias.equal(folded(same, norm, false).bias.to(at::kHalf)));
}

TEST(FoldBatchNorm, TakesOneAndZeroForAbsentParameters) {
  const auto [scale, shift] = merge_batch_norm_statistics(
      vector_of({1.0, -2.0}), vector_of({4.0, 0.25}), std::nullopt, std::nullopt, 0.0);
  EXPECT_TRUE(scale.equal(vector_of({0.5, 2.0})));
  EXPECT_TRUE(shift.equal(vector_of({-0.5, 4.0})));
}

TEST(FoldBatchNorm, KeepsNaNAndVanishingVarianceInTheirChannel) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Layer layer{at::full({3, 2}, 1.0, at::kDouble)};
  const auto [weight, bias] =
      fold_batch_norm(layer.weight, std::nullopt, vector_of({0.0, 0.0, 0.0}),
                      vector_of({nan, 0.0, 1.0}), std::nullopt, std::nullopt, 0.0, 1, false, false);
  EXPECT_TRUE(std::isnan(weight[0][0].item<double>()));
  EXPECT_TRUE(std::isinf(weight[1][0].item<double>()));
  EXPECT_EQ(weight[2][0].item<double>(), 1.0);
}

TEST(FoldBatchNorm, NamesTheArgumentThatDoesNotFit) {
  const Layer layer = random_layer(2, 1, false, false);
  try {
    folded(layer, BatchNorm(5), false);
    FAIL() << "5 statistics for 6 channels were taken";
  } catch (const c10::ValueError& error) {
    EXPECT_NE(std::string(error.what()).find("`running_mean` must have shape (6)"),
              std::string::npos);
  }
  EXPECT_THROW(folded({layer.weight.to(at::kInt)}, BatchNorm(6), false), c10::TypeError);
  EXPECT_THROW(folded({layer.weight, {}, 4}, BatchNorm(6), false), c10::ValueError);
  EXPECT_THROW(folded({vector_of({1.0})}, BatchNorm(1), false), c10::ValueError);
  BatchNorm negative(6);
  negative.eps = -1.0;
  EXPECT_THROW(folded(layer, negative, false), c10::ValueError);
}

}  // namespace
}  // namespace aimet::test
