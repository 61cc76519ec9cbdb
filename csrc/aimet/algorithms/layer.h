// What the algorithms on weights share: one view of the weight of every supported layer
// (Conv1d/2d/3d, ConvTranspose1d/2d/3d, Linear; grouped or not), so that no formula has a case per
// layer type.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include <cstdint>
#include <string>

namespace aimet {

// A convolution, transposed convolution or linear layer.
struct Layer {
  at::Tensor weight;     // Conv (out, in / groups, *kernel); ConvTranspose (in, out / groups,
                         // *kernel); Linear (out, in)
  at::Tensor bias = {};  // (out,), or undefined where the layer has none
  int64_t groups = 1;
  bool is_transposed = false;  // ConvTranspose
};

// TypeError / ValueError unless `layer` is what its comments say. `op` and `name` (`weight`,
// `weights[2]`) go into the message.
AIMET_API void check_layer(const char* op, const std::string& name, const Layer& layer);

// Symbolic, because the operators that never look at data also run on tensors of unknown size.
AIMET_API c10::SymInt output_channel_count(const Layer& layer);
AIMET_API c10::SymInt input_channel_count(const Layer& layer);

// The weight as (groups, out / groups, in / groups, kernel elements): channel o of group g is
// output channel g * (out / groups) + o, and likewise for inputs. `input_channels` smaller than the
// layer's own count means a Linear behind a flatten: its columns are then channels times positions,
// and the positions count as kernel. A view or a copy of the weight, in its dtype.
AIMET_API at::Tensor grouped_weight(const Layer& layer, const c10::SymInt& input_channels);
AIMET_API at::Tensor grouped_weight(const Layer& layer);

// The inverse of grouped_weight(): `grouped` in the shape of layer.weight.
AIMET_API at::Tensor ungrouped_weight(const at::Tensor& grouped, const Layer& layer);

// A vector with one number an output (input) channel, shaped to broadcast against grouped_weight().
AIMET_API at::Tensor along_outputs(const at::Tensor& vector, const Layer& layer);
AIMET_API at::Tensor along_inputs(const at::Tensor& vector, const Layer& layer);

}  // namespace aimet
