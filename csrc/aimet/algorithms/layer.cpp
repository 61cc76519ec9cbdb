#include "aimet/algorithms/layer.h"

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <string>

namespace aimet {

void check_layer(const char* op, const std::string& name, const Layer& layer) {
  const at::Tensor& weight = layer.weight;
  TORCH_CHECK_TYPE(weight.is_floating_point(), op, ": `", name,
                   "` must have a floating-point dtype, got ", weight.scalar_type());
  TORCH_CHECK_VALUE(weight.dim() >= 2 && weight.dim() <= 5, op, ": `", name,
                    "` must have 2 (Linear) to 5 (Conv3d) dimensions, got shape ",
                    weight.sym_sizes());
  TORCH_CHECK_VALUE(layer.groups >= 1 && weight.sym_size(0) % layer.groups == 0, op,
                    ": `groups` must be positive and divide dimension 0 of `", name, "`, got ",
                    layer.groups, " for shape ", weight.sym_sizes());
  TORCH_CHECK_VALUE(weight.dim() > 2 || (layer.groups == 1 && !layer.is_transposed), op, ": `",
                    name,
                    "` of 2 dimensions belongs to a Linear layer, which has neither `groups` nor "
                    "`transposed`; got groups ",
                    layer.groups, ", transposed ", layer.is_transposed);
  if (layer.bias.defined()) {
    TORCH_CHECK_VALUE(
        layer.bias.dim() == 1 && layer.bias.sym_size(0) == output_channel_count(layer), op,
        ": the bias of `", name, "` must have shape (", output_channel_count(layer), "), got ",
        layer.bias.sym_sizes());
  }
}

c10::SymInt output_channel_count(const Layer& layer) {
  return layer.is_transposed ? layer.weight.sym_size(1) * layer.groups : layer.weight.sym_size(0);
}

c10::SymInt input_channel_count(const Layer& layer) {
  return layer.is_transposed ? layer.weight.sym_size(0) : layer.weight.sym_size(1) * layer.groups;
}

at::Tensor grouped_weight(const Layer& layer, const c10::SymInt& input_channels) {
  const c10::SymInt outputs = output_channel_count(layer) / layer.groups;
  const c10::SymInt inputs = input_channels / layer.groups;
  // The number of kernel elements is written out: -1 cannot be inferred for a weight without
  // elements.
  const c10::SymInt kernel =
      layer.weight.sym_numel() / (outputs * inputs * layer.groups).max(c10::SymInt(1));
  if (layer.is_transposed) {
    return layer.weight.reshape_symint({layer.groups, inputs, outputs, kernel}).transpose(1, 2);
  }
  return layer.weight.reshape_symint({layer.groups, outputs, inputs, kernel});
}

at::Tensor grouped_weight(const Layer& layer) {
  return grouped_weight(layer, input_channel_count(layer));
}

at::Tensor ungrouped_weight(const at::Tensor& grouped, const Layer& layer) {
  return (layer.is_transposed ? grouped.transpose(1, 2) : grouped)
      .reshape_symint(layer.weight.sym_sizes());
}

at::Tensor along_outputs(const at::Tensor& vector, const Layer& layer) {
  return vector.reshape_symint({layer.groups, vector.sym_size(0) / layer.groups, 1, 1});
}

at::Tensor along_inputs(const at::Tensor& vector, const Layer& layer) {
  return vector.reshape_symint({layer.groups, 1, vector.sym_size(0) / layer.groups, 1});
}

}  // namespace aimet
