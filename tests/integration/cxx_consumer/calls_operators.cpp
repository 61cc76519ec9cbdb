// Quantizes, and learns a scale, through the C++ interface.
#include <aimet/aimet.h>

#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <iostream>

int main() {
  const at::Tensor x = at::tensor({-9.0f, 0.3f, 9.0f});
  at::Tensor scale = at::full({}, 0.5).set_requires_grad(true);
  const at::Tensor y = aimet::quantize_dequantize(x, scale, at::full({}, 0.0), -8, 7);
  y.sum().backward();
  for (int i = 0; i < 3; ++i) std::cout << y[i].item<float>() << ' ';
  std::cout << scale.grad().item<float>() << '\n';
  try {
    aimet::quantize(x, at::full({}, -1.0), at::full({}, 0.0), -8, 7);
  } catch (const c10::ValueError& error) {
    std::cout << error.what_without_backtrace() << '\n';
  }
}
