// Runs a package that sim.export_compiled() wrote: machine code of the simulation (AOTInductor).
//
//   compiled model.pt2 inputs.pt outputs.pt
//
// As in torchscript.cpp, linking aimet::aimet is what registers the operators.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>

#include <fstream>
#include <iostream>
#include <iterator>

int main(int count, char** arguments) {
  if (count != 4) {
    std::cerr << "usage: compiled PACKAGE INPUTS OUTPUTS\n";
    return 2;
  }
  const c10::InferenceMode inference;
  torch::inductor::AOTIModelPackageLoader model(arguments[1]);
  std::ifstream file(arguments[2], std::ios::binary);
  const auto inputs = torch::pickle_load({std::istreambuf_iterator<char>(file), {}});
  std::vector<at::Tensor> tensors;
  for (const c10::IValue& input : inputs.toTupleRef().elements()) tensors.push_back(input.toTensor());

  const std::vector<at::Tensor> outputs = model.run(tensors);
  const auto tuple = c10::ivalue::Tuple::create({outputs.begin(), outputs.end()});
  const std::vector<char> bytes = torch::pickle_save(tuple);
  std::ofstream(arguments[3], std::ios::binary).write(bytes.data(), static_cast<long>(bytes.size()));
}
