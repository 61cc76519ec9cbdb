// An integer-only layer as a C++ program without Python computes it.
#include "aimet/aimet.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace aimet {
namespace {

TEST(IntegerLayer, ConvolvesRequantizesAndPadsWithTheZeroPoint) {
  const at::Tensor image = at::arange(9, at::kByte).reshape({1, 1, 3, 3});
  const at::Tensor weight = at::ones({1, 1, 3, 3}, at::kChar);
  const std::vector<std::int64_t> one = {1, 1}, around = {1, 1, 1, 1};
  const at::Tensor sums = integer_convolution(image, weight, at::tensor({10}), 4,
                                              at::tensor({0}).reshape({}), one, around, one);
  // Codes less 4 add up to 0 over the image, and to less where the window leaves it.
  EXPECT_EQ(sums.scalar_type(), at::kLong);
  EXPECT_EQ(sums[0][0][1][1].item<std::int64_t>(), 10);
  EXPECT_EQ(sums[0][0][0][0].item<std::int64_t>(), 10 + (0 + 1 + 3 + 4) - 4 * 4);
  const auto [multiplier, shift] = requantization_multiplier(at::full({}, 0.5, at::kDouble));
  const at::Tensor codes = requantize(sums, multiplier, shift, 100, 0, 255);
  EXPECT_EQ(codes[0][0][1][1].item<int>(), 105);
  EXPECT_THROW(requantize(sums, multiplier, shift, 0, 0, 255, "up"), c10::ValueError);
}

TEST(IntegerLayer, KnowsHowFarItsAccumulatorsCanGo) {
  const at::Tensor weight = at::tensor({3, -2}).reshape({1, 2});
  const auto [least, largest] = accumulator_limits(weight, at::tensor({10}), -1, 4);
  EXPECT_EQ(least.item<std::int64_t>(), 10 - 3 - 8);
  EXPECT_EQ(largest.item<std::int64_t>(), 10 + 12 + 2);
}

TEST(IntegerLayer, MultipliesAndAdds) {
  const at::Tensor a = at::tensor({1, 2}).reshape({1, 2}), b = at::tensor({3, 4}).reshape({2, 1});
  const at::Tensor zero = at::tensor({0}).reshape({});
  EXPECT_EQ(integer_matmul(a, b, std::nullopt, 0, zero).item<std::int64_t>(), 11);
  const at::Tensor sum = integer_add(a, a, 0.5, 0, 0.25, 0, 0.25, 7, 0, 255);
  EXPECT_TRUE(at::equal(sum, at::tensor({10, 13}, at::kInt).reshape({1, 2})));
}

}  // namespace
}  // namespace aimet
