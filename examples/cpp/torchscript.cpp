// Runs a file that sim.export_torchscript() wrote: the simulation itself, without Python.
//
//   torchscript model.pt inputs.pt outputs.pt
//
// Nothing of aimet is called here: linking aimet::aimet registers the operators. `inputs.pt` holds
// a tuple of tensors (Python: torch.save((x,), path); C++: torch::pickle_save).
#include <torch/script.h>

#include <fstream>
#include <iostream>
#include <iterator>

c10::IValue read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return torch::pickle_load({std::istreambuf_iterator<char>(file), {}});
}

void write(const char* path, const c10::IValue& value) {
  const std::vector<char> bytes = torch::pickle_save(value);
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<long>(bytes.size()));
}

int main(int count, char** arguments) {
  if (count != 4) {
    std::cerr << "usage: torchscript MODEL INPUTS OUTPUTS\n";
    return 2;
  }
  const c10::InferenceMode inference;
  torch::jit::Module model = torch::jit::load(arguments[1]);
  const auto inputs = read(arguments[2]).toTupleRef().elements().vec();
  write(arguments[3], model.forward(inputs));
}
