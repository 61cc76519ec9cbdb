// Runs a TorchScript file whose operators are ours. No symbol of the library is named here: the CMake
// target has to keep it linked.
#include <torch/script.h>

#include <iostream>

int main(int, char** arguments) {
  torch::jit::Module model = torch::jit::load(arguments[1]);
  const at::Tensor y = model.forward({torch::tensor({-9.0f, 0.3f, 9.0f})}).toTensor();
  for (int i = 0; i < 3; ++i) std::cout << y[i].item<float>() << ' ';
  std::cout << '\n';
}
