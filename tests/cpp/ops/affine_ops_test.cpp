// The operators as a C++ program without Python uses them: values, gradients, errors.
#include "aimet/aimet.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>

#include <gtest/gtest.h>

#include <string>

namespace aimet {
namespace {

using namespace std::string_literals;

at::Tensor number(double value) {
  return at::full({}, value, at::kFloat);
}

TEST(QuantizeDequantize, RoundsToTheGrid) {
  const at::Tensor x = at::tensor({-9.0f, -0.3f, 0.25f, 0.75f, 9.0f});
  const at::Tensor y = quantize_dequantize(x, number(0.5), number(0), -8, 7);
  EXPECT_TRUE(at::equal(y, at::tensor({-4.0f, -0.5f, 0.0f, 1.0f, 3.5f})));
  const at::Tensor q = quantize(x, number(0.5), number(0), -8, 7);
  EXPECT_TRUE(at::equal(q, at::tensor({-8.0f, -1.0f, 0.0f, 2.0f, 7.0f})));
  EXPECT_TRUE(at::equal(dequantize(q, number(0.5), number(0)), y));
}

TEST(QuantizeDequantize, KeepsMemoryFormatAndDtype) {
  const at::Tensor x =
      at::randn({2, 3, 4, 5}).to(at::kHalf).contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor y =
      quantize_dequantize(x, at::full({3, 1, 1}, 0.1), at::full({3, 1, 1}, 0.0), -8, 7);
  EXPECT_EQ(y.strides(), x.strides());
  EXPECT_EQ(y.scalar_type(), at::kHalf);
}

TEST(QuantizeDequantize, TakesBlocks) {
  const at::Tensor x = at::randn({4, 6});
  const at::Tensor scale = at::tensor({0.1f, 0.2f, 0.3f, 0.4f}).reshape({2, 2});
  const std::vector<std::int64_t> blocks = {2, 3};
  const at::Tensor y = quantize_dequantize(x, scale, number(0), -8, 7, at::IntArrayRef(blocks));
  const at::Tensor full = scale.repeat_interleave(2, 0).repeat_interleave(3, 1);
  EXPECT_TRUE(at::equal(y, quantize_dequantize(x, full, number(0), -8, 7)));
}

TEST(QuantizeDequantize, GivesGradientsWithoutPython) {
  at::Tensor x = at::tensor({-9.0f, 0.3f, 9.0f}).set_requires_grad(true);
  at::Tensor scale = number(0.5).set_requires_grad(true);
  at::Tensor offset = number(0).set_requires_grad(true);
  quantize_dequantize(x, scale, offset, -8, 7).sum().backward();
  EXPECT_TRUE(at::equal(x.grad(), at::tensor({0.0f, 1.0f, 0.0f})));
  EXPECT_FLOAT_EQ(scale.grad().item<float>(), -8 + (1 - 0.6f) + 7);
  EXPECT_FLOAT_EQ(offset.grad().item<float>(), 1.0f);
}

TEST(QuantizeDequantize, PassesTheInputsGradientInsideTheGrid) {
  at::Tensor x = at::randn({3, 5, 7}).set_requires_grad(true);
  const at::Tensor y = quantize_dequantize(x, number(0.2), number(0), -8, 7);
  y.backward(at::ones_like(y));
  const at::Tensor codes = (x.detach() / number(0.2)).round();
  const at::Tensor inside = (codes >= -8).logical_and(codes <= 7);
  EXPECT_TRUE(at::equal(x.grad(), inside.to(at::kFloat)));
}

TEST(QuantizeAndDequantize, HaveTheGradientOfBothInOne) {
  const at::Tensor data = at::randn({6, 5}, at::kDouble) * 3;
  const auto gradients = [&](bool in_one) {
    at::Tensor x = data.clone().set_requires_grad(true);
    at::Tensor scale = at::full({6, 1}, 0.3, at::kDouble).set_requires_grad(true);
    at::Tensor offset = at::full({6, 1}, -2.0, at::kDouble).set_requires_grad(true);
    const at::Tensor y = in_one ? quantize_dequantize(x, scale, offset, 0, 15)
                                : dequantize(quantize(x, scale, offset, 0, 15), scale, offset);
    (y * y).sum().backward();
    return std::vector<at::Tensor>{x.grad(), scale.grad(), offset.grad()};
  };
  const auto expected = gradients(true);
  const auto actual = gradients(false);
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_TRUE(at::allclose(actual[i], expected[i], 1e-10, 1e-10)) << i;
}

TEST(QuantizeDequantize, RejectsAScaleThatIsNotPositive) {
  try {
    quantize_dequantize(at::randn({3}), number(-1), number(0), -8, 7);
    FAIL() << "nothing was thrown";
  } catch (const c10::ValueError& error) {
    EXPECT_NE(std::string(error.what()).find("`scale` must be positive and finite, got -1"),
              std::string::npos);
  }
}

TEST(QuantizeDequantize, RejectsIntegers) {
  const at::Tensor integers = at::tensor({1, 2, 3});
  EXPECT_THROW(quantize_dequantize(integers, number(1), number(0), -8, 7), c10::TypeError);
}

TEST(BuildInfo, NamesTheKernelsInUse) {
  const std::string info = build_info();
  EXPECT_NE(info.find("\"torch_version\""), std::string::npos);
  EXPECT_NE(info.find('"' + cpu_capability() + '"'), std::string::npos);
}

TEST(BuildInfo, CountsTheThreadsOfALoop) {
  const int before = at::get_num_threads();
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    EXPECT_NE(build_info().find("\"threads\": " + std::to_string(threads) + ","), std::string::npos)
        << build_info();
  }
  at::set_num_threads(before);
}

}  // namespace
}  // namespace aimet
