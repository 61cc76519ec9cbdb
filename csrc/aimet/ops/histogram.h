// Streaming histograms: `bins` equal bins over [min, max] for each tensor, channel or block.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>
#include <c10/util/OptionalArrayRef.h>

namespace aimet {

// Adds the finite values of `input` to `histogram`: int64, shape (*min.sizes(), bins), bins >= 1.
// `min` and `max` broadcast against `input` or, with `block_size`, tile it (see affine.h). Binning
// is that of torch.histc; values outside [min, max] count in the first or last bin. Where min ==
// max the bins divide [min - 0.5, max + 0.5]; where min > max nothing is counted. Deterministic.
// Not safe against concurrent updates of one histogram.
AIMET_API void update_histogram_(at::Tensor histogram, const at::Tensor& input,
                                 const at::Tensor& min, const at::Tensor& max,
                                 at::OptionalIntArrayRef block_size = at::OptionalIntArrayRef());

// The counts of `histogram`, which divides [old_min, old_max], in bins that divide the wider
// [new_min, new_max] (all four of shape histogram.sizes() without the last). A bin that crosses a
// border is divided in proportion; no count is lost.
AIMET_API at::Tensor rebin_histogram(const at::Tensor& histogram, const at::Tensor& old_min,
                                     const at::Tensor& old_max, const at::Tensor& new_min,
                                     const at::Tensor& new_max);

}  // namespace aimet
