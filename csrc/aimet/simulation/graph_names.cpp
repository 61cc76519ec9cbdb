#include "aimet/simulation/graph_names.h"

#include <algorithm>
#include <cctype>

namespace aimet::simulation {
namespace {

namespace jit = torch::jit;

bool is_number(const std::string& text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); });
}

// "x.1" -> "x": saving and loading TorchScript numbers values anew.
std::string without_number(const std::string& name) {
  const size_t dot = name.rfind('.');
  return dot != std::string::npos && is_number(name.substr(dot + 1)) ? name.substr(0, dot) : name;
}

class Collector {
 public:
  explicit Collector(GraphNames& names) : names_(names) {}

  void add_values(at::ArrayRef<jit::Value*> values) {
    for (jit::Value* value : values) {
      // A name that is only a number is none: it changes with every save.
      if (!value->type()->isSubtypeOf(*c10::TensorType::get()) || is_number(value->debugName())) {
        continue;
      }
      names_.activations.add(without_number(value->debugName()), value);
      names_.exact.emplace(value->debugName(), value);
    }
  }

  void add_block(jit::Block* block) {
    for (jit::Node* node : block->nodes()) {
      if (node->kind() == c10::prim::GetAttr && module_paths_.count(node->input()) != 0) {
        add_attribute(node);
      } else if (node->kind() != c10::prim::Constant) {
        add_values(node->outputs());
      }
      for (jit::Block* inner : node->blocks()) {
        add_values(inner->inputs());
        add_block(inner);
      }
    }
  }

  void set_module(const jit::Value* value, const std::string& path) { module_paths_[value] = path; }

 private:
  void add_attribute(jit::Node* node) {
    const std::string& owner = module_paths_.at(node->input());
    const std::string name = node->s(c10::attr::name);
    const std::string path = owner.empty() ? name : owner + "." + name;
    jit::Value* value = node->output();
    if (value->type()->cast<c10::ClassType>()) {
      set_module(value, path);
    } else if (value->type()->isSubtypeOf(*c10::TensorType::get())) {
      names_.parameters.add(path, value);
    }
  }

  GraphNames& names_;
  std::unordered_map<const jit::Value*, std::string> module_paths_;
};

}  // namespace

void NamedValues::add(const std::string& name, jit::Value* value) {
  auto [found, is_new] = values.try_emplace(name);
  if (is_new) names.push_back(name);
  found->second.push_back(value);
}

const std::vector<jit::Value*>* NamedValues::find(const std::string& name) const {
  const auto found = values.find(name);
  return found == values.end() ? nullptr : &found->second;
}

GraphNames names_of(jit::Graph& graph) {
  GraphNames names;
  Collector collector(names);
  collector.set_module(graph.inputs().at(0), "");
  collector.add_values(graph.inputs().slice(1));
  collector.add_block(graph.block());
  return names;
}

}  // namespace aimet::simulation
