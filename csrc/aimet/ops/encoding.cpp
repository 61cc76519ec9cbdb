// C++ API, Meta kernels and ATen fallback of the encoding operators. Calibration's
// range_from_min_max happens once and goes through the CPU; encoding_from_range happens in every
// forward and must not wait for the device.
#include "aimet/ops/encoding.h"

#include "aimet/core/encoding.h"
#include "aimet/ops/affine_composite.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/dispatch.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full_like.h>
#include <torch/library.h>

namespace aimet {

std::tuple<at::Tensor, at::Tensor> range_from_min_max(const at::Tensor& min, const at::Tensor& max,
                                                      std::int64_t qmin, std::int64_t qmax,
                                                      bool symmetric, bool strict) {
  static const auto op =
      ops::find_operator<decltype(range_from_min_max)>("aimet::range_from_min_max");
  return op.call(min, max, qmin, qmax, symmetric, strict);
}

std::tuple<at::Tensor, at::Tensor> encoding_from_range(const at::Tensor& min, const at::Tensor& max,
                                                       std::int64_t qmin, std::int64_t qmax,
                                                       bool symmetric) {
  static const auto op =
      ops::find_operator<decltype(encoding_from_range)>("aimet::encoding_from_range");
  return op.call(min, max, qmin, qmax, symmetric);
}

namespace {

using Pair = std::tuple<at::Tensor, at::Tensor>;

Pair two_like(const at::Tensor& tensor) {
  return {at::empty_like(tensor, tensor.options(), at::MemoryFormat::Contiguous),
          at::empty_like(tensor, tensor.options(), at::MemoryFormat::Contiguous)};
}

Pair range_from_min_max_meta(const at::Tensor& min, const at::Tensor& max, std::int64_t qmin,
                             std::int64_t qmax, bool, bool) {
  ops::check_range("range_from_min_max", min, max);
  ops::check_grid("range_from_min_max", qmin, qmax);
  return two_like(min);
}

Pair encoding_from_range_meta(const at::Tensor& min, const at::Tensor& max, std::int64_t qmin,
                              std::int64_t qmax, bool) {
  ops::check_range("encoding_from_range", min, max);
  ops::check_grid("encoding_from_range", qmin, qmax);
  return two_like(min);
}

Pair range_from_min_max_composite(const at::Tensor& min, const at::Tensor& max, std::int64_t qmin,
                                  std::int64_t qmax, bool symmetric, bool strict) {
  auto [low, high] = range_from_min_max(min.cpu(), max.cpu(), qmin, qmax, symmetric, strict);
  return {low.to(min.device()), high.to(min.device())};
}

Pair encoding_from_range_composite(const at::Tensor& min, const at::Tensor& max, std::int64_t qmin,
                                   std::int64_t qmax, bool symmetric) {
  ops::check_range("encoding_from_range", min, max);
  ops::check_grid("encoding_from_range", qmin, qmax);
  const at::ScalarType type = ops::compute_type_of(min);
  const at::Tensor low = min.to(type);
  const double smallest = type == at::kDouble ? core::minimal_scale<double>(qmax - qmin)
                                              : core::minimal_scale<float>(qmax - qmin);
  const at::Tensor scale =
      ((max.to(type) - low) / static_cast<double>(qmax - qmin)).clamp_min(smallest);
  at::Tensor offset;
  if (symmetric) {
    offset = at::full_like(
        scale, core::offset_from_range(core::Range<double>{0, 0}, 1.0, qmin, qmax, true));
  } else {
    offset = ((low / scale).round() - qmin).clamp(-qmax, -qmin) + 0.0;
  }
  return {scale.to(min.scalar_type()), offset.to(min.scalar_type())};
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Meta, m) {
  m.impl("range_from_min_max", &aimet::range_from_min_max_meta);
  m.impl("encoding_from_range", &aimet::encoding_from_range_meta);
}
TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("range_from_min_max", &aimet::range_from_min_max_composite);
  m.impl("encoding_from_range", &aimet::encoding_from_range_composite);
}
