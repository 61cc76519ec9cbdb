#include "aimet/core/encoding.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/layout.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace aimet {
namespace {

using Pair = std::tuple<at::Tensor, at::Tensor>;

// Calls body(a, b, &first, &second) with each pair of elements, in the compute type; the results
// have the dtype of `a`.
template <typename Body>
Pair map_pairs(const at::Tensor& a, const at::Tensor& b, const Body& body) {
  const at::ScalarType type = ops::compute_type(a);
  const at::Tensor source_a = ops::contiguous_as(a, type);
  const at::Tensor source_b = ops::contiguous_as(b, type);
  at::Tensor first = at::empty(a.sizes(), a.options().dtype(type));
  at::Tensor second = at::empty(a.sizes(), a.options().dtype(type));
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const T* in_a = source_a.const_data_ptr<T>();
    const T* in_b = source_b.const_data_ptr<T>();
    T* out_first = first.mutable_data_ptr<T>();
    T* out_second = second.mutable_data_ptr<T>();
    for (std::int64_t i = 0; i < first.numel(); ++i)
      body(in_a[i], in_b[i], out_first + i, out_second + i);
  };
  if (type == at::kDouble) {
    run(double{});
  } else {
    run(float{});
  }
  if (type == a.scalar_type()) return {first, second};
  return {first.to(a.scalar_type()), second.to(a.scalar_type())};
}

Pair range_from_min_max_cpu(const at::Tensor& min, const at::Tensor& max, std::int64_t qmin,
                            std::int64_t qmax, bool symmetric, bool strict) {
  ops::check_range("range_from_min_max", min, max);
  ops::check_grid("range_from_min_max", qmin, qmax);
  const std::int64_t step_count = qmax - qmin;
  // A strict symmetric grid has as many steps below zero as above: an even number.
  const std::int64_t used_steps =
      symmetric && strict && step_count > 1 ? step_count - step_count % 2 : step_count;
  return map_pairs(min, max, [&](auto low, auto high, auto* range_min, auto* range_max) {
    const auto range = core::range_from_min_max(low, high, used_steps, symmetric);
    *range_min = range.min;
    *range_max = range.max;
  });
}

Pair encoding_from_range_cpu(const at::Tensor& min, const at::Tensor& max, std::int64_t qmin,
                             std::int64_t qmax, bool symmetric) {
  ops::check_range("encoding_from_range", min, max);
  ops::check_grid("encoding_from_range", qmin, qmax);
  return map_pairs(min, max, [&](auto low, auto high, auto* scale, auto* offset) {
    using T = decltype(low);
    const auto encoding =
        core::encoding_from_range(core::Range<T>{low, high}, qmin, qmax, symmetric);
    *scale = encoding.scale;
    *offset = encoding.offset;
  });
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CPU, m) {
  m.impl("range_from_min_max", &aimet::range_from_min_max_cpu);
  m.impl("encoding_from_range", &aimet::encoding_from_range_cpu);
}
