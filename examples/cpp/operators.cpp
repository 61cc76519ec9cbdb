// The operators with gradients: learns the step of a 4-bit grid (LSQ) by gradient descent.
#include <aimet/aimet.h>
#include <torch/torch.h>

#include <iomanip>
#include <iostream>

constexpr int kMin = -8, kMax = 7;  // 4 bits

int main() {
  torch::manual_seed(0);
  const torch::Tensor x = torch::randn({64, 32});

  // One step for each of 32 channels, too wide to begin with; no offset.
  torch::Tensor scale = torch::full({32}, 1.0).requires_grad_();
  const torch::Tensor offset = torch::zeros({32});
  torch::optim::SGD optimizer({scale}, torch::optim::SGDOptions(0.002));
  for (int step = 0; step <= 200; ++step) {
    const torch::Tensor y = aimet::quantize_dequantize(x, scale, offset, kMin, kMax);
    const torch::Tensor error = (y - x).square().sum();
    if (step % 100 == 0) {
      std::cout << std::setprecision(9) << "error: " << error.item<float>() / x.numel() << '\n';
    }
    optimizer.zero_grad();
    error.backward();
    optimizer.step();
  }

  // The input's gradient: straight through inside the grid, zero outside.
  const torch::Tensor input = torch::tensor({-9.0f, 0.3f, 9.0f}).requires_grad_();
  const torch::Tensor one = torch::ones({}), zero = torch::zeros({});
  aimet::quantize_dequantize(input, one, zero, kMin, kMax).sum().backward();
  for (int i = 0; i < 3; ++i) std::cout << input.grad()[i].item<float>() << ' ';

  // Codes and back, in blocks of 16 rows that share a step.
  const torch::Tensor steps = torch::full({4, 32}, 0.25), zeros = torch::zeros({4, 32});
  const torch::Tensor codes = aimet::quantize(x, steps, zeros, kMin, kMax, {{16, 1}});
  const torch::Tensor real = aimet::dequantize(codes, steps, zeros, {{16, 1}});
  std::cout << "\ncodes: " << codes.min().item<float>() << " to " << codes.max().item<float>()
            << ", sum of values: " << real.sum().item<float>() << '\n';

  // An argument that makes no sense is an exception that says why.
  try {
    aimet::quantize(x, -one, zero, kMin, kMax);
  } catch (const c10::ValueError& error) {
    std::cout << error.what_without_backtrace() << '\n';
  }
}
