// Vectorised operators one after the other: scales are few beside what they scale.
#include "aimet/ops/checks.h"
#include "aimet/ops/grouped_scale.h"

#include <ATen/TensorOperators.h>
#include <torch/library.h>

namespace aimet {
namespace {

at::Tensor grouped_scale_cpu(const at::Tensor& scale, at::IntArrayRef group_size,
                             std::int64_t steps) {
  const std::vector<c10::SymInt> counts = ops::check_grouped_scale(scale, group_size, steps);
  if (scale.numel() == 0) return scale.clone(at::MemoryFormat::Contiguous);
  const at::Tensor unit = ops::largest_of_groups(scale, counts) / static_cast<double>(steps);
  ops::check_scale_values("grouped_scale", unit.contiguous());
  return ops::round_to_units(scale, unit, steps, group_size);
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CPU, m) { m.impl("grouped_scale", &aimet::grouped_scale_cpu); }
