// What moves from one bias to the next, and that the network notices only what the header says.
#include "aimet/algorithms/high_bias_absorption.h"

#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones.h>
#include <c10/util/Exception.h>

#include <gtest/gtest.h>

#include "networks.h"

#include <limits>

namespace aimet::test {
namespace {

TEST(AbsorbHighBias, TakesWhatLiesThreeDeviationsBelowTheMean) {
  const at::Tensor bias = vector_of({1.0, 1.0, 1.0, 1.0});
  const at::Tensor gamma = vector_of({0.5, -0.5, 2.0, 0.1});
  const at::Tensor beta = vector_of({2.0, 2.0, 2.0, -3.0});
  const auto [moved, next_bias, absorbed] =
      absorb_high_bias(bias, gamma, beta, std::nullopt, at::full({1, 4}, 2.0, at::kDouble),
                       vector_of({0.25}), 1, false, true);
  EXPECT_TRUE(absorbed.equal(vector_of({0.5, 0.5, 0.0, 0.0})));
  EXPECT_TRUE(moved.equal(vector_of({0.5, 0.5, 1.0, 1.0})));
  EXPECT_TRUE(next_bias.equal(vector_of({2.25})));
}

TEST(AbsorbHighBias, TakesTheWholeMeanWhereNoRectifierStands) {
  const auto [moved, next_bias, absorbed] = absorb_high_bias(
      vector_of({1.0, 1.0}), vector_of({1.0, 1.0}), vector_of({2.0, -3.0}), std::nullopt,
      at::ones({1, 2}, at::kDouble), vector_of({0.0}), 1, false, false);
  EXPECT_TRUE(absorbed.equal(vector_of({2.0, -3.0})));
  EXPECT_TRUE(moved.equal(vector_of({-1.0, 4.0})));
  EXPECT_TRUE(next_bias.equal(vector_of({-1.0})));
}

TEST(AbsorbHighBias, TakesNoMoreThanTheUpperLimitAndNothingThatIsNotFinite) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto [moved, next_bias, absorbed] = absorb_high_bias(
      vector_of({1.0, 1.0}), vector_of({1.0, nan}), vector_of({20.0, 5.0}), vector_of({6.0, 6.0}),
      at::ones({1, 2}, at::kDouble), vector_of({0.0}), 1, false, true);
  EXPECT_TRUE(absorbed.equal(vector_of({6.0, 0.0})));
}

TEST(AbsorbHighBias, IsExactWhenTheLowerLimitMovesAlong) {
  const Layer first = random_layer(2, 2, false, true);  // 12 outputs
  const Layer next{at::randn({6, 4, 3, 3}, at::kDouble), at::randn({6}, at::kDouble), 3};
  const at::Tensor gamma = at::randn({12}, at::kDouble) * 0.1;
  const at::Tensor beta = at::randn({12}, at::kDouble) + 1.0;
  const at::Tensor input = at::randn({2, 8, 7, 7}, at::kDouble);
  const at::Tensor expected = run(next, run(first, input).relu());

  const auto [bias, next_bias, absorbed] = absorb_high_bias(
      first.bias, gamma, beta, std::nullopt, next.weight, next.bias, next.groups, false, true);
  ASSERT_GT(absorbed.max().item<double>(), 0.0);
  const at::Tensor moved = run({first.weight, bias, first.groups}, input);
  const at::Tensor limited = at::maximum(moved, -absorbed.view({1, 12, 1, 1}));
  EXPECT_LT(largest_difference(run({next.weight, next_bias, next.groups}, limited), expected),
            1e-12);
}

TEST(AbsorbHighBias, GivesAFlattenedInputItsChannelAtEveryPosition) {
  const auto [moved, next_bias, absorbed] = absorb_high_bias(
      vector_of({0.0, 0.0}), vector_of({0.0, 0.0}), vector_of({1.0, 10.0}), std::nullopt,
      vector_of({1.0, 2.0, 3.0, 4.0, 5.0, 6.0}).unsqueeze(0), vector_of({0.0}), 1, false, true);
  EXPECT_EQ(next_bias.item<double>(), 1.0 * (1 + 2 + 3) + 10.0 * (4 + 5 + 6));
}

TEST(AbsorbHighBias, RefusesWhatHasNoExactForm) {
  const at::Tensor channels = vector_of({1.0, 1.0});
  EXPECT_THROW(absorb_high_bias(channels, channels, channels, std::nullopt,
                                at::ones({2, 3, 3, 3}, at::kDouble), at::ones({3}, at::kDouble), 1,
                                true, true),
               c10::NotImplementedError);
  EXPECT_NO_THROW(absorb_high_bias(channels, channels, channels, std::nullopt,
                                   at::ones({2, 3, 1, 1}, at::kDouble), at::ones({3}, at::kDouble),
                                   1, true, true));
  EXPECT_THROW(
      absorb_high_bias(channels, channels, channels, std::nullopt, at::ones({1, 3}, at::kDouble),
                       at::ones({1}, at::kDouble), 1, false, true),
      c10::ValueError);
  EXPECT_THROW(
      absorb_high_bias(channels, channels, vector_of({1.0}), std::nullopt,
                       at::ones({1, 2}, at::kDouble), at::ones({1}, at::kDouble), 1, false, true),
      c10::ValueError);
}

}  // namespace
}  // namespace aimet::test
