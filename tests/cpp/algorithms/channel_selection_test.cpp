// Selection of channels as a program without Python makes it.
#include "aimet/algorithms/channel_selection.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <gtest/gtest.h>

#include <vector>

namespace {

const auto kDouble = at::TensorOptions(at::kDouble);

aimet::ChannelReader random_reader(int64_t units, int64_t kernel) {
  const int64_t d = units * kernel;
  const at::Tensor mixing = at::randn({d, d}, kDouble);
  return {at::randn({5, d}, kDouble),
          at::matmul(mixing, mixing.t()) / d + 0.1 * at::eye(d, kDouble),
          at::arange(units, at::kLong).repeat_interleave(kernel)};
}

at::Tensor none(int64_t units) {
  return at::zeros({units}, at::kBool);
}

TEST(ChannelSelection, ErrorsOfTheGreedyOrderAreThoseOfThatOrder) {
  const std::vector<aimet::ChannelReader> readers = {random_reader(8, 9), random_reader(8, 1)};
  const at::Tensor base = at::zeros({8}, kDouble);
  for (const bool refits : {true, false}) {
    const auto [order, error] = aimet::eliminate_channels(readers, base, none(8), 1, refits);
    EXPECT_EQ(order.numel(), 7);
    const at::Tensor again = aimet::channel_errors(readers, base, order, refits);
    EXPECT_TRUE(error.allclose(again, 1e-8, 1e-10));
  }
}

TEST(ChannelSelection, RefittingNeverCostsMore) {
  const std::vector<aimet::ChannelReader> readers = {random_reader(10, 4)};
  const at::Tensor base = at::zeros({10}, kDouble), order = at::arange(9, at::kLong);
  const at::Tensor refitted = aimet::channel_errors(readers, base, order, true);
  const at::Tensor plain = aimet::channel_errors(readers, base, order, false);
  EXPECT_TRUE((refitted <= plain + 1e-12).all().item<bool>());
}

TEST(ChannelSelection, ACopyOfAChannelGoesFirstAndCostsNothing) {
  // Units 1 and 3 always have the same value.
  at::Tensor mixing = at::randn({5, 40}, kDouble);
  mixing.select(0, 3).copy_(mixing.select(0, 1));
  const at::Tensor gram = at::matmul(mixing, mixing.t()) + 1e-9 * at::eye(5, kDouble);
  const aimet::ChannelReader reader{at::randn({4, 5}, kDouble), gram, at::arange(5, at::kLong)};
  const auto [order, error] =
      aimet::eliminate_channels({reader}, at::zeros({5}, kDouble), none(5), 1, true);
  const int64_t first = order[0].item<int64_t>();
  EXPECT_TRUE(first == 1 || first == 3);
  EXPECT_LT(error[1].item<double>(), 1e-6 * error[4].item<double>());
}

TEST(ChannelSelection, LassoLeavesAsManyAsWanted) {
  const at::Tensor quadratic = aimet::channel_quadratic({random_reader(12, 3)}, 12);
  const at::Tensor norm = at::ones({12}, kDouble);
  for (const int64_t count : {1, 5, 11, 12}) {
    const auto [coefficient, penalty] = aimet::channel_lasso(quadratic, norm, none(12), count);
    EXPECT_EQ((coefficient != 0).sum().item<int64_t>(), count);
    EXPECT_GE(penalty.item<double>(), 0);
  }
  EXPECT_EQ(aimet::channel_lasso_order(quadratic, norm, none(12), 50).numel(), 12);
}

TEST(ChannelSelection, MagnitudeIsTheSumOfSquares) {
  const at::Tensor weight = at::tensor({1.0, 2.0, 3.0, 4.0}, kDouble).view({1, 4});
  const at::Tensor unit = at::tensor({1, 0, -1, 1}, at::TensorOptions(at::kLong));
  const at::Tensor sums = aimet::channel_magnitude(weight, unit, 2);
  EXPECT_TRUE(sums.equal(at::tensor({4.0, 17.0}, kDouble)));
}

TEST(ChannelSelection, ErrorsNameTheArgument) {
  aimet::ChannelReader reader = random_reader(3, 1);
  reader.gram = at::eye(2, kDouble);
  EXPECT_THROW(aimet::channel_quadratic({reader}, 3), c10::ValueError);
}

}  // namespace
