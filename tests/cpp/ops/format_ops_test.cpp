// Floating-point formats and microscaling as a C++ program without Python uses them.
#include "aimet/aimet.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <gtest/gtest.h>

namespace aimet {
namespace {

TEST(QuantizeDequantizeFloat, RoundsAndSaturates) {
  const at::Tensor one = at::full({}, 1.0, at::kFloat);
  const at::Tensor x = at::tensor({0.3f, -5.1f, 1000.0f});
  const at::Tensor y = quantize_dequantize_float(x, one, 4, 3, /*finite=*/true);
  EXPECT_TRUE(at::equal(y, at::tensor({0.3125f, -5.0f, 448.0f})));
}

TEST(QuantizeDequantizeFloat, PassesTheGradientOfWhatDoesNotSaturate) {
  const at::Tensor scale = at::full({}, 2.0, at::kFloat).requires_grad_();
  const at::Tensor x = at::tensor({3.0f, 100.0f}).requires_grad_();
  quantize_dequantize_float(x, scale, 2, 1, /*finite=*/true).sum().backward();
  EXPECT_TRUE(at::equal(x.grad(), at::tensor({1.0f, 0.0f})));
  EXPECT_EQ(scale.grad().item<float>(), 0.0f + 6.0f);  // 1.5 is a number; 50 saturates at 6
}

TEST(QuantizeDequantizeMicroscaling, ReturnsValuesAndScales) {
  const at::Tensor x = at::tensor({0.1f, -3.0f, 20.0f});
  const auto [mx, scale] = quantize_dequantize_microscaling(x, "float4e2m1");
  EXPECT_TRUE(at::equal(mx, at::tensor({0.0f, -4.0f, 16.0f})));
  EXPECT_TRUE(at::equal(scale, at::tensor({4.0f})));
  const at::Tensor tensor_scale = at::full({}, 1.0 / 448, at::kFloat);
  const auto [nvfp4, block_scale] = quantize_dequantize_microscaling(
      at::tensor({6.0f, 3.2f, 0.4f}), "float4e2m1", 0, 16, tensor_scale);
  EXPECT_TRUE(at::equal(nvfp4, at::tensor({6.0f, 3.0f, 0.5f})));
  EXPECT_TRUE(at::equal(block_scale, at::tensor({1.0f})));
}

TEST(QuantizeDequantizeMicroscaling, NamesTheFormatsItKnows) {
  EXPECT_THROW(quantize_dequantize_microscaling(at::tensor({1.0f}), "float3"), c10::ValueError);
}

}  // namespace
}  // namespace aimet
