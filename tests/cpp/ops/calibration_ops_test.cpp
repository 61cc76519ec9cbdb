// From data to an encoding, in C++ alone.
#include "aimet/aimet.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/amin.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/histc.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <gtest/gtest.h>

#include <vector>

namespace aimet {
namespace {

std::vector<c10::SymInt> shape_of(std::initializer_list<std::int64_t> sizes) {
  return {sizes.begin(), sizes.end()};
}

TEST(MinMax, ReducesToAnyShape) {
  const at::Tensor x = at::randn({4, 3, 5});
  const auto [low, high] = min_max(x, shape_of({3, 1}));
  EXPECT_TRUE(at::equal(low.flatten(), x.amin({0, 2})));
  EXPECT_TRUE(at::equal(high.flatten(), x.amax({0, 2})));
  EXPECT_EQ(low.sizes(), (std::vector<std::int64_t>{3, 1}));
}

TEST(UpdateHistogram, CountsLikeHistc) {
  const at::Tensor x = at::randn({1000});
  const auto [low, high] = min_max(x, shape_of({}));
  at::Tensor histogram = at::zeros({128}, at::kLong);
  update_histogram_(histogram, x, low, high);
  const at::Tensor expected = at::histc(x, 128, low.item<float>(), high.item<float>());
  EXPECT_TRUE(at::equal(histogram.to(at::kFloat), expected));
}

TEST(RebinHistogram, LosesNoCount) {
  const at::Tensor histogram = (at::randn({3, 64}).abs() * 10).to(at::kLong);
  const at::Tensor zero = at::zeros({3});
  const at::Tensor wider = rebin_histogram(histogram, zero - 1, zero + 1, zero - 1.7, zero + 2.3);
  EXPECT_TRUE(at::equal(wider.sum({1}), histogram.sum({1})));
}

TEST(RangeSearches, HoldZeroAndFollowTheData) {
  const at::Tensor x = at::randn({2, 20000}) * at::tensor({1.0f, 4.0f}).reshape({2, 1});
  const auto [low, high] = min_max(x, shape_of({2, 1}));
  at::Tensor histogram = at::zeros({2, 1, 512}, at::kLong);
  update_histogram_(histogram, x, low, high);
  using Pair = std::tuple<at::Tensor, at::Tensor>;
  const Pair ranges[] = {range_from_percentile(histogram, low, high, 99.9, 0, 255, false),
                         range_from_sqnr(histogram, low, high, 0, 255, false),
                         range_from_mse(histogram, low, high, 0, 255, false),
                         range_from_entropy(histogram, low, high, 0, 255, false)};
  for (const auto& [range_min, range_max] : ranges) {
    EXPECT_TRUE((range_min <= 0).all().item<bool>());
    const at::Tensor ratio = range_max[1] / range_max[0];
    EXPECT_GT(ratio.item<float>(), 2.5f);  // the second channel is four times as wide
    EXPECT_LT(ratio.item<float>(), 6.5f);
  }
}

TEST(EncodingFromRange, GivesGradientsWithoutPython) {
  at::Tensor low = at::full({}, -1.0, at::kDouble).set_requires_grad(true);
  at::Tensor high = at::full({}, 2.0, at::kDouble).set_requires_grad(true);
  const auto [scale, offset] = encoding_from_range(low, high, 0, 255, false);
  EXPECT_DOUBLE_EQ(offset.item<double>(), -85.0);
  scale.backward();
  EXPECT_DOUBLE_EQ(high.grad().item<double>(), 1.0 / 255);
  EXPECT_DOUBLE_EQ(low.grad().item<double>(), -1.0 / 255);
}

TEST(RangeFromMinMax, LeavesTheLowestCodeOutWhenStrict) {
  const auto [low, high] =
      range_from_min_max(at::full({}, -2.54), at::full({}, 1.0), -128, 127, true, true);
  EXPECT_TRUE(at::allclose(low, -high));
  const auto [scale, offset] = encoding_from_range(low, high, -127, 127, true);
  EXPECT_FLOAT_EQ(scale.item<float>(), 0.02f);
  EXPECT_EQ(offset.item<float>(), 0.0f);
}

}  // namespace
}  // namespace aimet
