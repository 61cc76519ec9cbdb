#include "aimet/core/affine.h"
#include "aimet/core/rounding.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/grouped_scale.h"
#include "aimet/ops/layout.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <vector>

namespace aimet {
namespace {

// Where the groups of a contiguous tensor lie in it.
struct Groups {
  std::vector<std::int64_t> sizes;   // of the tensor
  std::vector<std::int64_t> group;   // elements of a group along each dimension
  std::vector<std::int64_t> stride;  // of the tensor of groups
};

// Calls body(begin, count, group) for all runs of elements that are neighbors in memory and in one
// group, in the order of memory.
template <typename Body>
void for_each_run(const Groups& groups, const Body& body) {
  const std::size_t rank = groups.sizes.size();
  if (rank == 0) return body(0, 1, 0);
  const std::int64_t inner = groups.sizes[rank - 1];
  const std::int64_t run = groups.group[rank - 1];
  std::int64_t rows = 1;
  for (std::size_t dim = 0; dim + 1 < rank; ++dim) rows *= groups.sizes[dim];
  std::vector<std::int64_t> index(rank, 0);
  for (std::int64_t row = 0; row < rows; ++row) {
    std::int64_t group = 0;
    for (std::size_t dim = 0; dim + 1 < rank; ++dim)
      group += index[dim] / groups.group[dim] * groups.stride[dim];
    for (std::int64_t begin = 0; begin < inner; begin += run)
      body(row * inner + begin, run, group++);
    for (std::size_t dim = rank - 1; dim-- > 0;) {
      if (++index[dim] < groups.sizes[dim]) break;
      index[dim] = 0;
    }
  }
}

template <typename T>
void round_to_groups(const Groups& groups, const T* scale, std::int64_t steps, T* unit,
                     std::int64_t unit_count, T* result) {
  for_each_run(groups, [&](std::int64_t begin, std::int64_t count, std::int64_t group) {
    T largest = unit[group];
    for (std::int64_t i = begin; i < begin + count; ++i)
      largest = scale[i] > largest || scale[i] != scale[i] ? scale[i] : largest;  // NaN stays
    unit[group] = largest;
  });
  for (std::int64_t i = 0; i < unit_count; ++i) unit[i] /= static_cast<T>(steps);
  for_each_run(groups, [&](std::int64_t begin, std::int64_t count, std::int64_t group) {
    const core::AffineParams<T> grid{unit[group], T(0), T(1), static_cast<T>(steps)};
    for (std::int64_t i = begin; i < begin + count; ++i)
      result[i] = core::quantize_dequantize(scale[i], grid);
  });
}

at::Tensor grouped_scale_cpu(const at::Tensor& scale, at::IntArrayRef group_size,
                             std::int64_t steps) {
  const std::vector<c10::SymInt> counts = ops::check_grouped_scale(scale, group_size, steps);
  const at::ScalarType type = ops::compute_type(scale);
  const at::Tensor source = ops::contiguous_as(scale, type);
  at::Tensor result = at::empty(scale.sizes(), scale.options().dtype(type));
  if (scale.numel() == 0) return result.to(scale.scalar_type());
  Groups groups{scale.sizes().vec(), group_size.vec(), std::vector<std::int64_t>(counts.size())};
  std::int64_t group_count = 1;
  for (std::size_t dim = counts.size(); dim-- > 0;) {
    if (groups.group[dim] == -1) groups.group[dim] = groups.sizes[dim];
    groups.stride[dim] = group_count;
    group_count *= counts[dim].expect_int();
  }
  at::Tensor unit = at::zeros({group_count}, result.options());
  if (type == at::kDouble) {
    round_to_groups(groups, source.const_data_ptr<double>(), steps,
                    unit.mutable_data_ptr<double>(), group_count,
                    result.mutable_data_ptr<double>());
  } else {
    round_to_groups(groups, source.const_data_ptr<float>(), steps, unit.mutable_data_ptr<float>(),
                    group_count, result.mutable_data_ptr<float>());
  }
  ops::check_scale_values("grouped_scale", unit);
  return result.to(scale.scalar_type());
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CPU, m) { m.impl("grouped_scale", &aimet::grouped_scale_cpu); }
