#include "aimet/algorithms/cross_layer_equalization.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <unordered_set>

namespace aimet {
namespace {

constexpr const char* kOp = "equalize_cross_layers_";

// Largest |value| over `dims`, float64: every later product stays finite. NaN is carried along. Not
// abs().amax(), which would copy the weight.
at::Tensor largest_magnitude(const at::Tensor& values, at::IntArrayRef dims, bool keepdim) {
  return at::maximum(values.amax(dims, keepdim), values.amin(dims, keepdim).neg()).to(at::kDouble);
}

// Ranges of one layer under the scales found so far. What a scale of the other side does not change
// is kept, so that a layer whose inputs or outputs alone are in a chain costs a sweep nothing but a
// division; only a layer in two chains keeps a number for each pair of channels.
class LayerRanges {
 public:
  LayerRanges(const Layer& layer, int64_t input_channels, bool scales_inputs, bool scales_outputs)
      : layer_(layer) {
    const at::Tensor weight = grouped_weight(layer, input_channels);  // (groups, out, in, kernel)
    if (scales_inputs && scales_outputs) {
      magnitudes_ = largest_magnitude(weight, {3}, /*keepdim=*/true);  // (groups, out, in, 1)
    } else if (scales_inputs) {
      largest_of_inputs_ = largest_magnitude(weight, {1, 3}, /*keepdim=*/false).flatten();
    } else if (scales_outputs) {
      largest_of_outputs_ = largest_magnitude(weight, {2, 3}, /*keepdim=*/false).flatten();
    }
  }

  at::Tensor output_ranges() {
    if (!largest_of_outputs_.defined()) {
      const at::Tensor scaled =
          input_scale_.defined() ? magnitudes_ * along_inputs(input_scale_, layer_) : magnitudes_;
      largest_of_outputs_ = scaled.amax(2).flatten();
    }
    return output_scale_.defined() ? largest_of_outputs_ / output_scale_ : largest_of_outputs_;
  }

  at::Tensor input_ranges() {
    if (!largest_of_inputs_.defined()) {
      const at::Tensor scaled = output_scale_.defined()
                                    ? magnitudes_ / along_outputs(output_scale_, layer_)
                                    : magnitudes_;
      largest_of_inputs_ = scaled.amax(1).flatten();
    }
    return input_scale_.defined() ? largest_of_inputs_ * input_scale_ : largest_of_inputs_;
  }

  void divide_outputs_by(const at::Tensor& scale) {
    output_scale_ = scale;
    if (magnitudes_.defined()) largest_of_inputs_.reset();
  }

  void multiply_inputs_by(const at::Tensor& scale) {
    input_scale_ = scale;
    if (magnitudes_.defined()) largest_of_outputs_.reset();
  }

  void apply_scales(int64_t input_channels) const {
    if (!input_scale_.defined() && !output_scale_.defined()) return;
    at::Tensor weight = grouped_weight(layer_, input_channels).to(at::kDouble);
    if (input_scale_.defined()) weight = weight * along_inputs(input_scale_, layer_);
    if (output_scale_.defined()) weight = weight / along_outputs(output_scale_, layer_);
    layer_.weight.copy_(ungrouped_weight(weight, layer_));
    if (output_scale_.defined() && layer_.bias.defined()) {
      layer_.bias.copy_(layer_.bias.to(at::kDouble) / output_scale_);
    }
  }

 private:
  const Layer& layer_;
  at::Tensor magnitudes_;
  at::Tensor input_scale_;
  at::Tensor output_scale_;
  at::Tensor largest_of_outputs_;
  at::Tensor largest_of_inputs_;
};

// Layers without data are refused, so sizes are plain numbers here.
int64_t count(const c10::SymInt& size) {
  return size.expect_int();
}

bool is_depthwise(const Layer& layer) {
  return layer.groups == input_channel_count(layer) && layer.groups == output_channel_count(layer);
}

// What the chains make of each layer.
struct Roles {
  std::vector<int64_t> input_channels;  // what it is fed with
  std::vector<bool> scales_inputs;
  std::vector<bool> scales_outputs;
};

// Checks one chain and notes the roles of its layers.
void add_chain(const std::vector<Layer>& layers, const std::vector<int64_t>& chain,
               int64_t chain_index, Roles& roles) {
  TORCH_CHECK_VALUE(chain.size() >= 2, kOp, ": a chain must have at least 2 layers, chain ",
                    chain_index, " has ", chain.size());
  for (size_t position = 0; position < chain.size(); ++position) {
    const int64_t index = chain[position];
    TORCH_CHECK_VALUE(index >= 0 && index < static_cast<int64_t>(layers.size()), kOp, ": chain ",
                      chain_index, " names layer ", index, ", but there are ", layers.size());
    const Layer& layer = layers[index];
    const bool is_first = position == 0;
    const bool is_last = position + 1 == chain.size();
    TORCH_CHECK_VALUE(is_first || is_last || is_depthwise(layer), kOp, ": layer ", index,
                      " in the middle of chain ", chain_index,
                      " must be depthwise (groups = inputs = outputs), got ", layer.groups,
                      " groups, ", input_channel_count(layer), " inputs, ",
                      output_channel_count(layer),
                      " outputs; end the chain there and begin another");
    if (!is_first) {
      TORCH_CHECK_VALUE(!roles.scales_inputs[index], kOp, ": the inputs of layer ", index,
                        " are in two chains");
      roles.scales_inputs[index] = true;
      const int64_t channels = count(output_channel_count(layers[chain[position - 1]]));
      const int64_t inputs = count(input_channel_count(layer));
      const bool is_flattened = layer.weight.dim() == 2 && inputs % channels == 0;
      TORCH_CHECK_VALUE(inputs == channels || is_flattened, kOp, ": layer ", index, " of chain ",
                        chain_index, " has ", inputs,
                        " input channels, but the layer before it has ", channels,
                        " output channels");
      roles.input_channels[index] = channels;
    }
    if (!is_last) {
      TORCH_CHECK_VALUE(!roles.scales_outputs[index], kOp, ": the outputs of layer ", index,
                        " are in two chains");
      roles.scales_outputs[index] = true;
    }
  }
}

Roles checked_roles(const std::vector<Layer>& layers,
                    const std::vector<std::vector<int64_t>>& chains,
                    const EqualizationOptions& options) {
  TORCH_CHECK_VALUE(options.max_sweeps >= 1, kOp, ": `max_sweeps` must be positive, got ",
                    options.max_sweeps);
  TORCH_CHECK_VALUE(options.tolerance >= 0, kOp, ": `tolerance` must not be negative, got ",
                    options.tolerance);
  TORCH_CHECK_VALUE(options.max_scale >= 1 && std::isfinite(options.max_scale), kOp,
                    ": `max_scale` must be at least 1 and finite, got ", options.max_scale);
  Roles roles{{}, std::vector<bool>(layers.size()), std::vector<bool>(layers.size())};
  std::unordered_set<const void*> addresses;
  for (size_t index = 0; index < layers.size(); ++index) {
    const Layer& layer = layers[index];
    check_layer(kOp, "weights[" + std::to_string(index) + "]", layer);
    TORCH_CHECK_NOT_IMPLEMENTED(!layer.weight.is_meta(), kOp,
                                ": the number of sweeps depends on the weights, so meta tensors "
                                "cannot be equalized");
    TORCH_CHECK_VALUE(layer.weight.numel() > 0, kOp, ": weights[", index, "] has no elements");
    TORCH_CHECK_VALUE(addresses.insert(layer.weight.const_data_ptr()).second, kOp, ": weights[",
                      index, "] is also the weight of an earlier layer; leave shared weights out");
    roles.input_channels.push_back(count(input_channel_count(layer)));
  }
  for (size_t index = 0; index < chains.size(); ++index) {
    add_chain(layers, chains[index], static_cast<int64_t>(index), roles);
  }
  return roles;
}

// One chain, one sweep: moves log_scales (layers - 1, channels) and returns the largest move.
// float64 logarithms turn products into sums, and make a range of zero, NaN or infinity a NaN in
// the whole column, which then stays.
double equalize_chain(std::vector<LayerRanges>& ranges, const std::vector<int64_t>& chain,
                      double max_log_scale, at::Tensor& log_scales) {
  const int64_t link_count = static_cast<int64_t>(chain.size()) - 1;
  std::vector<at::Tensor> channel_ranges;
  for (size_t position = 0; position < chain.size(); ++position) {
    LayerRanges& layer = ranges[chain[position]];
    channel_ranges.push_back(position == 0 ? layer.output_ranges() : layer.input_ranges());
  }
  const at::Tensor log_ranges = at::stack(channel_ranges).log();  // (layers, channels)
  const at::Tensor step = (log_ranges - log_ranges.mean(0)).cumsum(0).narrow(0, 0, link_count);
  const at::Tensor moved =
      (log_scales + at::where(step.isfinite(), step, 0.0)).clamp(-max_log_scale, max_log_scale);
  const double largest_move = (moved - log_scales).abs().max().item<double>();
  log_scales = moved;

  const std::vector<at::Tensor> scales = moved.exp().unbind(0);
  for (int64_t link = 0; link < link_count; ++link) {
    ranges[chain[link]].divide_outputs_by(scales[link]);
    ranges[chain[link + 1]].multiply_inputs_by(scales[link]);
  }
  return largest_move;
}

}  // namespace

EqualizationResult equalize_cross_layers_(const std::vector<Layer>& layers,
                                          const std::vector<std::vector<int64_t>>& chains,
                                          const EqualizationOptions& options) {
  const at::NoGradGuard no_grad;
  const Roles roles = checked_roles(layers, chains, options);

  std::vector<LayerRanges> ranges;
  for (size_t index = 0; index < layers.size(); ++index) {
    ranges.emplace_back(layers[index], roles.input_channels[index], roles.scales_inputs[index],
                        roles.scales_outputs[index]);
  }
  std::vector<at::Tensor> log_scales;  // one a chain
  for (const std::vector<int64_t>& chain : chains) {
    const Layer& first = layers[chain.front()];
    log_scales.push_back(
        at::zeros({static_cast<int64_t>(chain.size()) - 1, count(output_channel_count(first))},
                  first.weight.options().dtype(at::kDouble)));
  }

  EqualizationResult result;
  const double max_log_scale = std::log(options.max_scale);
  double largest_move = chains.empty() ? 0.0 : std::log1p(options.tolerance) + 1.0;
  while (result.sweep_count < options.max_sweeps && largest_move > std::log1p(options.tolerance)) {
    largest_move = 0.0;
    for (size_t index = 0; index < chains.size(); ++index) {
      largest_move = std::max(
          largest_move, equalize_chain(ranges, chains[index], max_log_scale, log_scales[index]));
    }
    ++result.sweep_count;
  }
  for (size_t index = 0; index < layers.size(); ++index) {
    ranges[index].apply_scales(roles.input_channels[index]);
  }
  for (const at::Tensor& logs : log_scales) {
    for (const at::Tensor& scale : logs.exp().unbind(0)) result.scales.push_back(scale);
  }
  return result;
}

}  // namespace aimet
