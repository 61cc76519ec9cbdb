#include "aimet/simulation/quant_sim.h"

#include "aimet/encodings/encodings.h"
#include "aimet/simulation/fake_quantize.h"
#include "aimet/simulation/graph_names.h"

#include <ATen/core/grad_mode.h>
#include <c10/util/StringUtil.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <algorithm>
#include <cctype>
#include <utility>

namespace aimet {
namespace {

namespace jit = torch::jit;
using encodings::TensorEncoding;
using simulation::FakeQuantize;
using simulation::GraphNames;

std::shared_ptr<jit::Graph> graph_of(const jit::Module& module) {
  const std::optional<jit::Method> forward = module.find_method("forward");
  TORCH_CHECK_VALUE(forward.has_value(), "QuantSim: `model` has no method `forward`");
  return jit::toGraphFunction(forward->function()).graph();
}

// A copy with a graph of its own, in which no call is left; tensors are shared.
jit::Module inlined_copy(const jit::Module& model) {
  jit::Module copy = model.clone(/*inplace=*/true);
  copy.eval();
  jit::Inline(*graph_of(copy));
  return copy;
}

// The module that holds a parameter, and the parameter's name in it.
std::pair<jit::Module, std::string> owner_of(const jit::Module& module, const std::string& path) {
  jit::Module owner = module;
  size_t begin = 0;
  for (size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', begin)) {
    owner = owner.attr(path.substr(begin, dot - begin)).toModule();
    begin = dot + 1;
  }
  return {owner, path.substr(begin)};
}

bool is_transposed_convolution(const jit::Node* node) {
  const std::string kind = node->kind().toQualString();
  if (kind.rfind("aten::conv_transpose", 0) == 0) return true;
  if (kind != "aten::_convolution" && kind != "aten::convolution") return false;
  constexpr size_t kTransposed = 6;  // weight, bias, stride, padding, dilation come before
  const std::optional<c10::IValue> flag = jit::toIValue(node->input(kTransposed));
  return flag.has_value() && flag->isBool() && flag->toBool();
}

simulation::ScaleAxes axes_of(const std::vector<jit::Value*>& reads) {
  for (const jit::Value* value : reads) {
    for (const jit::Use& use : value->uses()) {
      if (is_transposed_convolution(use.user)) return {1, 0};
    }
  }
  return {};
}

class Builder {
 public:
  Builder(jit::Module& module, const encodings::EncodingsDocument& document)
      : module_(module), graph_(graph_of(module)), names_(simulation::names_of(*graph_)) {
    check_entries(document);
    const at::NoGradGuard no_grad;
    for (const auto* section : {&document.param_encodings, &document.encodings}) {
      for (const TensorEncoding& entry : *section) {
        if (names_.parameters.find(entry.name) != nullptr) {
          quantize_parameter(entry);
        } else {
          quantize_value(entry);  // a second reading of a parameter has a name of its own
        }
      }
    }
    for (const TensorEncoding& entry : document.activation_encodings) quantize_value(entry);
  }

 private:
  void check_entries(const encodings::EncodingsDocument& document) const {
    std::vector<std::string> problems;
    const auto check_section = [&](const char* name, const std::vector<TensorEncoding>& section) {
      for (const TensorEncoding& entry : section) check_entry(name, entry, problems);
    };
    check_section("param_encodings", document.param_encodings);
    check_section("encodings", document.encodings);
    check_section("activation_encodings", document.activation_encodings);
    TORCH_CHECK_VALUE(
        problems.empty(), "QuantSim: ", problems.size(),
        " entries of the encodings do not fit the model: ", c10::Join("; ", problems),
        ". A model and a file whose names fit come from sim.export(..., "
        "export_to_torchscript=True); QuantSim::activation_names() lists the names in a model");
  }

  void check_entry(const std::string& section, const TensorEncoding& entry,
                   std::vector<std::string>& problems) const {
    const bool is_parameter =
        section != "activation_encodings" && names_.parameters.find(entry.name) != nullptr;
    std::string problem = simulation::find_obstacle(entry);
    if (problem.empty() && !is_parameter) problem = find_missing(entry.name);
    if (!problem.empty()) problems.push_back(c10::str(section, " `", entry.name, "` ", problem));
  }

  std::string find_missing(const std::string& name) const {
    if (names_.exact.count(name) != 0) return "";
    const std::vector<jit::Value*>* values = names_.activations.find(name);
    if (values == nullptr) return "names no tensor of the model";
    if (values->size() == 1) return "";
    std::vector<std::string> full;
    for (const jit::Value* value : *values) full.push_back(value->debugName());
    return "could be any of " + c10::Join(", ", full);
  }

  void quantize_parameter(const TensorEncoding& entry) {
    auto [owner, name] = owner_of(module_, entry.name);
    const at::Tensor parameter = owner.attr(name).toTensor();
    const auto quantizer = simulation::make_fake_quantize(
        entry, parameter.sizes(), axes_of(*names_.parameters.find(entry.name)));
    if (quantizer.has_value()) owner.setattr(name, (*quantizer)(parameter));
  }

  void quantize_value(const TensorEncoding& entry) {
    const auto exact = names_.exact.find(entry.name);
    jit::Value* value =
        exact != names_.exact.end() ? exact->second : names_.activations.find(entry.name)->front();
    const auto quantizer = simulation::make_fake_quantize(entry, sizes_behind(value), {});
    if (!quantizer.has_value()) return;
    jit::Value* output = insert(entry.name, value, *quantizer);
    value->replaceAllUsesAfterNodeWith(output->node(), output);
  }

  // The sizes of a value that is a parameter under another name.
  std::optional<c10::IntArrayRef> sizes_behind(const jit::Value* value) {
    const jit::Node* node = value->node();
    if (node->kind() != c10::aten::alias) return std::nullopt;
    for (const auto& [path, reads] : names_.parameters.values) {
      for (const jit::Value* read : reads) {
        if (read == node->input()) {
          auto [owner, name] = owner_of(module_, path);
          held_ = owner.attr(name).toTensor();
          return held_.sizes();
        }
      }
    }
    return std::nullopt;
  }

  // Scales are buffers of the module, so that they move with it to other devices and into files.
  jit::Value* add_buffer(const std::string& kind, const std::string& name, const at::Tensor& tensor) {
    std::string attribute = "aimet_" + kind + "_" + name;
    std::replace_if(
        attribute.begin(), attribute.end(), [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
    while (module_.hasattr(attribute)) attribute += "_";
    module_.register_buffer(attribute, tensor);
    return graph_->insertGetAttr(graph_->inputs().at(0), attribute);
  }

  jit::Value* insert(const std::string& name, jit::Value* value, const FakeQuantize& quantizer) {
    jit::Node* node = value->node();
    const bool is_input = node->kind() == c10::prim::Param;
    const jit::WithInsertPoint here(is_input ? *node->owningBlock()->nodes().begin()
                                             : node->next());
    jit::Value* scale = add_buffer("scale", name, quantizer.scale);
    if (const auto& format = quantizer.format) {
      std::vector<jit::NamedValue> inputs = {value, scale, format->exponent_bits,
                                             format->mantissa_bits, format->is_finite,
                                             format->is_zero_unsigned, /*saturate=*/true};
      if (!quantizer.block_size.empty()) inputs.emplace_back(quantizer.block_size);
      return graph_->insert(c10::Symbol::fromQualString("aimet::quantize_dequantize_float"),
                            inputs);
    }
    jit::Value* offset = add_buffer("offset", name, quantizer.offset);
    const auto op = c10::Symbol::fromQualString("aimet::quantize_dequantize");
    if (quantizer.block_size.empty()) {
      return graph_->insert(op, {value, scale, offset, quantizer.qmin, quantizer.qmax});
    }
    return graph_->insert(
        op, {value, scale, offset, quantizer.qmin, quantizer.qmax, quantizer.block_size});
  }

  jit::Module& module_;
  std::shared_ptr<jit::Graph> graph_;
  GraphNames names_;
  at::Tensor held_;
};

}  // namespace

QuantSim::QuantSim(const jit::Module& model, const std::string& encodings_path)
    : QuantSim(model, encodings::read_file(encodings_path)) {}

QuantSim::QuantSim(const jit::Module& model, const encodings::EncodingsDocument& document)
    : module_(inlined_copy(model)) {
  Builder(module_, document);
}

at::IValue QuantSim::forward(std::vector<at::IValue> inputs) {
  return module_.forward(std::move(inputs));
}

std::vector<std::string> QuantSim::activation_names(const jit::Module& model) {
  const jit::Module copy = inlined_copy(model);
  return simulation::names_of(*graph_of(copy)).activations.names;
}

std::vector<std::string> QuantSim::parameter_names(const jit::Module& model) {
  const jit::Module copy = inlined_copy(model);
  return simulation::names_of(*graph_of(copy)).parameters.names;
}

}  // namespace aimet
