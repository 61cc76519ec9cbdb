// How scales of an entry lie along a tensor: per channel, in blocks, of two levels, of formats, and
// what is refused.
#include "models.h"

namespace aimet::simulation_test {
namespace {

// What the simulation makes of a parameter.
at::Tensor quantized(const at::Tensor& weight, const TensorEncoding& entry,
                     const std::string& use = "x * self.weight") {
  const jit::Module model =
      make_model({{"weight", weight}}, "def forward(self, x):\n    return " + use + "\n");
  return QuantSim(model, document({entry})).module().attr("weight").toTensor();
}

jit::Module with_weight(const at::Tensor& weight) {
  return make_model({{"weight", weight}}, "def forward(self, x):\n    return x * self.weight\n");
}

// `block_size` elements of axis 1 share a scale; `scale` has one row for each row of x.
at::Tensor rounded_in_blocks(const at::Tensor& x, const at::Tensor& scale, std::int64_t qmin,
                             std::int64_t qmax) {
  const std::vector<std::int64_t> sizes = {1, x.size(1) / scale.size(1)};
  return quantize_dequantize(x, scale, at::zeros_like(scale), qmin, qmax, sizes);
}

TEST(Scales, OfOneTensorAndItsLimits) {
  at::manual_seed(2);
  const at::Tensor weight = at::randn({3, 5}) * 4;
  TensorEncoding entry = grid("weight", {0.5});
  entry.bitwidth = 4;
  const at::Tensor step = at::scalar_tensor(0.5), zero = at::zeros({});
  EXPECT_TRUE(at::equal(quantized(weight, entry), quantize_dequantize(weight, step, zero, -8, 7)));
  entry.is_strict_symmetric = true;
  EXPECT_TRUE(at::equal(quantized(weight, entry), quantize_dequantize(weight, step, zero, -7, 7)));
}

TEST(Scales, OfChannelsOnTheFirstAxisUnlessTheFileTells) {
  const at::Tensor weight = at::randn({3, 3});
  TensorEncoding entry = grid("weight", {0.125, 0.25, 0.5});
  const at::Tensor scales = at::tensor({0.125F, 0.25F, 0.5F});
  EXPECT_TRUE(at::equal(quantized(weight, entry), rounded(weight, scales.reshape({3, 1}))));
  entry.channel_axis = 1;
  EXPECT_TRUE(at::equal(quantized(weight, entry), rounded(weight, scales.reshape({1, 3}))));
  entry.channel_axis = -1;
  EXPECT_TRUE(at::equal(quantized(weight, entry), rounded(weight, scales.reshape({1, 3}))));
  entry.channel_axis.reset();
  entry.shape = {1, 3};
  EXPECT_TRUE(at::equal(quantized(weight, entry), rounded(weight, scales.reshape({1, 3}))));
}

TEST(Scales, OfTransposedConvolutionsOnTheSecondAxis) {
  const at::Tensor weight = at::randn({2, 2, 3, 3});
  const TensorEncoding entry = grid("weight", {0.125, 0.5});
  const at::Tensor scales = at::tensor({0.125F, 0.5F});
  const auto first = rounded(weight, scales.reshape({2, 1, 1, 1}));
  const auto second = rounded(weight, scales.reshape({1, 2, 1, 1}));
  EXPECT_TRUE(at::equal(quantized(weight, entry, "torch.conv2d(x, self.weight)"), first));
  EXPECT_TRUE(at::equal(quantized(weight, entry, "torch.conv_transpose2d(x, self.weight)"), second));
}

TEST(Scales, OfBlocks) {
  const at::Tensor weight = at::randn({2, 6});
  TensorEncoding entry = grid("weight", {0.1, 0.2, 0.3, 0.4, 0.5, 0.6});
  entry.block_size = 2;
  const at::Tensor scales =
      at::tensor(std::vector<double>(entry.scale), at::kFloat).reshape({2, 3});
  EXPECT_TRUE(at::equal(quantized(weight, entry), rounded_in_blocks(weight, scales, -128, 127)));
}

TEST(Scales, OfTwoLevels) {
  const at::Tensor weight = at::randn({2, 6});
  TensorEncoding entry = grid("weight", {0.01, 0.02});
  entry.bitwidth = 4;
  entry.decompressed_bitwidth = 8;
  entry.per_block_int_scale = {1, 5, 16, 3, 2, 9};
  entry.block_size = 2;
  entry.shape = {2, 3};
  const at::Tensor levels = at::tensor({1.0F, 5.0F, 16.0F, 3.0F, 2.0F, 9.0F}).reshape({2, 3});
  const at::Tensor scales = at::tensor({0.01F, 0.02F}).reshape({2, 1}) * levels;
  EXPECT_TRUE(at::equal(quantized(weight, entry), rounded_in_blocks(weight, scales, -8, 7)));
}

TEST(Scales, OfSmallFloats) {
  const at::Tensor weight = at::randn({3, 5}) * 100;
  TensorEncoding entry = grid("weight", {0.25});
  entry.dtype = DataType::kFloat;
  entry.float_format = "float8e4m3fn";
  entry.offset.clear();
  const at::Tensor step = at::scalar_tensor(0.25);
  const at::Tensor numbers = (weight / step).clamp(-448, 448).to(at::kFloat8_e4m3fn);
  EXPECT_TRUE(at::equal(quantized(weight, entry), numbers.to(at::kFloat) * step));
}

TEST(Scales, AreNotNeededForHalvesAndDoNothingForFloats) {
  const at::Tensor weight = at::randn({3, 5});
  TensorEncoding entry = grid("weight", {});
  entry.dtype = DataType::kFloat;
  entry.bitwidth = 16;
  EXPECT_TRUE(at::equal(quantized(weight, entry), weight.to(at::kHalf).to(at::kFloat)));
  entry.bitwidth = 32;
  EXPECT_TRUE(at::equal(quantized(weight, entry), weight));
}

TEST(Scales, OfAnActivationWithItsShape) {
  TensorEncoding entry = grid("x", {0.125, 0.5});
  entry.shape = {2, 1};
  QuantSim sim(with_weight(at::ones({})), document({}, {entry}));
  const at::Tensor x = at::randn({4, 2, 3});
  const at::Tensor scales = at::tensor({0.125F, 0.5F}).reshape({2, 1});
  EXPECT_TRUE(at::equal(run(sim, x), rounded(x, scales)));
}

TEST(Scales, ThatDoNotFitAreRefused) {
  const jit::Module model = with_weight(at::randn({4, 6}));
  EXPECT_TRUE(refuses(model, document({grid("weight", {0.1, 0.2, 0.3})}),
                      {"entry of `weight` has 3 scales and tells no axis", "shape [4, 6]",
                       "version 2.0.0"}));
  TensorEncoding outside = grid("weight", {0.1, 0.2, 0.3, 0.4});
  outside.channel_axis = 2;
  EXPECT_TRUE(refuses(model, document({outside}), {"`channel_axis` 2", "shape [4, 6]"}));
  TensorEncoding other = grid("weight", {0.1, 0.2, 0.3, 0.4});
  other.channel_axis = 1;
  EXPECT_TRUE(refuses(model, document({other}), {"4 scales, which do not divide", "[4, 6]"}));
  TensorEncoding unknown = grid("weight", {0.1});
  unknown.dtype = DataType::kFloat;
  unknown.float_format = "float7";
  EXPECT_TRUE(refuses(model, document({unknown}), {"unknown format `float7`"}));
  EXPECT_TRUE(refuses(model, document({}, {grid("x", {0.1, 0.2})}),
                      {"entry of the activation `x` has 2 scales and tells no axis"}));
}

}  // namespace
}  // namespace aimet::simulation_test
