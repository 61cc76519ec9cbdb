#include <aimet/aimet.h>
#include <torch/torch.h>

#include <iostream>

int main() {
  const torch::Tensor weight = torch::randn({16, 3, 3, 3}).requires_grad_();

  // One 8-bit symmetric encoding for each output channel.
  const auto [least, greatest] = aimet::min_max(weight.detach(), {16, 1, 1, 1});
  const auto [min, max] = aimet::range_from_min_max(least, greatest, -128, 127, /*symmetric=*/true);
  const auto [scale, offset] = aimet::encoding_from_range(min, max, -128, 127, /*symmetric=*/true);

  const torch::Tensor simulated = aimet::quantize_dequantize(weight, scale, offset, -128, 127);
  (simulated * simulated).sum().backward();  // straight-through gradients, without Python

  const torch::Tensor error = ((simulated - weight).abs() / scale).max();
  std::cout << "largest error: " << error.item<float>() << " steps\n"
            << "gradient: " << std::boolalpha << torch::equal(weight.grad(), 2 * simulated) << "\n";
}
