// The C++ API of aimet, all of it. Link the CMake target aimet::aimet.
//
//   #include <aimet/aimet.h>
//   at::Tensor y = aimet::quantize_dequantize(x, scale, offset, -128, 127);
//
// The same functions are operators of the dispatcher (torch.ops.aimet.* in Python and TorchScript).
// Loading the library registers them; a program that only loads a TorchScript file and calls
// nothing of ours calls register_operators() so that the linker keeps the library.
#pragma once

#include "aimet/algorithms/activation_smoothing.h"
#include "aimet/algorithms/batch_norm_folding.h"
#include "aimet/algorithms/bias_correction.h"
#include "aimet/algorithms/channel_selection.h"
#include "aimet/algorithms/cross_layer_equalization.h"
#include "aimet/algorithms/high_bias_absorption.h"
#include "aimet/algorithms/integer_layers.h"
#include "aimet/algorithms/layer_moments.h"
#include "aimet/algorithms/logits_range.h"
#include "aimet/algorithms/low_rank.h"
#include "aimet/algorithms/norm_range.h"
#include "aimet/algorithms/ratio_selection.h"
#include "aimet/algorithms/relaxation.h"
#include "aimet/algorithms/rounding.h"
#include "aimet/algorithms/seq_mse.h"
#include "aimet/algorithms/tie_free.h"
#include "aimet/encodings/encodings.h"
#include "aimet/export.h"
#include "aimet/ops/adaround.h"
#include "aimet/ops/affine.h"
#include "aimet/ops/build_info.h"
#include "aimet/ops/clamped_affine.h"
#include "aimet/ops/encoding.h"
#include "aimet/ops/float_format.h"
#include "aimet/ops/grouped_scale.h"
#include "aimet/ops/histogram.h"
#include "aimet/ops/microscaling.h"
#include "aimet/ops/min_max.h"
#include "aimet/ops/quantization_error.h"
#include "aimet/ops/random_choice.h"
#include "aimet/ops/range_search.h"
#include "aimet/ops/requantization.h"
#include "aimet/ops/simulation.h"
#include "aimet/ops/value_range.h"

namespace aimet {

// Does nothing but be called.
AIMET_API void register_operators();

}  // namespace aimet
