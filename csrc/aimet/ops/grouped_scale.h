// Two levels of scales (LPBQ): scales of blocks that are whole numbers times a unit of their group.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>

#include <cstdint>
#include <vector>

namespace aimet {

// For each group: unit = max(scale) / steps, result = clamp(rne(scale / unit), 1, steps) * unit.
// The largest scale of a group stays as it is, up to the rounding of the division.
//   scale: floating, positive; any shape.
//   group_size: scales of a group, one entry per dimension; -1: the rest of the dimension.
//   steps: largest whole number, at least 1.
// Returns the shape and dtype of `scale`. Differentiable: rounding straight through, the unit's
// gradient goes to the largest scales of the group.
// ValueError: groups that do not tile `scale`, steps < 1, or scales that are not positive.
AIMET_API at::Tensor grouped_scale(const at::Tensor& scale, at::IntArrayRef group_size,
                                   std::int64_t steps);

namespace ops {

// Raises what grouped_scale does; returns the number of groups along each dimension.
std::vector<c10::SymInt> check_grouped_scale(const at::Tensor& scale, at::IntArrayRef group_size,
                                             std::int64_t steps);

// The largest scale of each group, in the type that is computed in.
at::Tensor largest_of_groups(const at::Tensor& scale, c10::SymIntArrayRef group_counts);

// The grid's last code: a grid has two codes at least, and no scale reaches the one beyond `steps`.
inline std::int64_t last_code(std::int64_t steps) { return steps > 1 ? steps : 2; }

// `scale` as whole numbers times the `unit` of its group; contiguous.
at::Tensor round_to_units(const at::Tensor& scale, const at::Tensor& unit, std::int64_t steps,
                          at::IntArrayRef group_size);

}  // namespace ops
}  // namespace aimet
