// The tensors of an inlined TorchScript graph by the names that encodings files use.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <string>
#include <unordered_map>
#include <vector>

namespace aimet::simulation {

// Values by name, names in the order of the graph.
struct NamedValues {
  std::vector<std::string> names;
  std::unordered_map<std::string, std::vector<torch::jit::Value*>> values;

  void add(const std::string& name, torch::jit::Value* value);
  const std::vector<torch::jit::Value*>* find(const std::string& name) const;
};

struct GraphNames {
  NamedValues parameters;   // what reads a tensor attribute, by the attribute's dotted name
  NamedValues activations;  // by name without the number that TorchScript appends
  std::unordered_map<std::string, torch::jit::Value*> exact;  // activations by their full name
};

// `graph`: inlined; its first input is the module.
GraphNames names_of(torch::jit::Graph& graph);

}  // namespace aimet::simulation
