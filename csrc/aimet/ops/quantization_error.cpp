#include "aimet/ops/quantization_error.h"

#include "aimet/ops/affine_composite.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/dispatch.h"
#include "aimet/ops/kernel_choice.h"
#include "aimet/ops/layout.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/round.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

namespace aimet {

using Pair = std::tuple<at::Tensor, at::Tensor>;
using OptionalTensor = std::optional<at::Tensor>;

Pair quantization_errors(const at::Tensor& input, const OptionalTensor& grad, at::TensorList scale,
                         at::TensorList offset, at::IntArrayRef qmin, at::IntArrayRef qmax,
                         bool by_sample, at::OptionalIntArrayRef block_size) {
  static const auto op =
      ops::find_operator<decltype(quantization_errors)>("aimet::quantization_errors");
  return op.call(input, grad, scale, offset, qmin, qmax, by_sample, block_size);
}

namespace {

constexpr const char* kOp = "quantization_errors";
constexpr std::int64_t kSums = cpu::QuantizationErrorArguments::kSums;

void check(const at::Tensor& input, const OptionalTensor& grad, at::TensorList scale,
           at::TensorList offset, at::IntArrayRef qmin, at::IntArrayRef qmax,
           at::OptionalIntArrayRef block_size) {
  const std::size_t grids = scale.size();
  TORCH_CHECK_VALUE(grids > 0 && offset.size() == grids && qmin.size() == grids &&
                        qmax.size() == grids,
                    kOp, ": `scale`, `offset`, `qmin` and `qmax` must have one entry for each grid,"
                    " at least one, got ",
                    grids, ", ", offset.size(), ", ", qmin.size(), " and ", qmax.size());
  for (std::size_t c = 0; c < grids; ++c) {
    ops::check_affine(kOp, input, scale[c], offset[c], block_size);
    ops::check_grid(kOp, qmin[c], qmax[c]);
    TORCH_CHECK_VALUE(scale[c].sym_sizes() == scale[0].sym_sizes(), kOp,
                      ": all entries of `scale` must have the same shape, got ",
                      scale[0].sym_sizes(), " and ", scale[c].sym_sizes());
  }
  if (grad.has_value()) {
    ops::check_is_floating(kOp, "grad", *grad);
    TORCH_CHECK_VALUE(grad->sym_sizes() == input.sym_sizes(), kOp,
                      ": `grad` must have the shape of `input`, got ", grad->sym_sizes(), " and ",
                      input.sym_sizes());
  }
}

Pair errors_meta(const at::Tensor& input, const OptionalTensor& grad, at::TensorList scale,
                 at::TensorList offset, at::IntArrayRef qmin, at::IntArrayRef qmax, bool,
                 at::OptionalIntArrayRef block_size) {
  check(input, grad, scale, offset, qmin, qmax, block_size);
  const at::TensorOptions options = input.options().dtype(at::kDouble);
  const auto grids = static_cast<std::int64_t>(scale.size());
  return {at::empty({grids, kSums}, options), at::empty({}, options)};
}

// Dense, and with the samples one after the other in memory.
at::Tensor in_memory_order(const at::Tensor& input, bool by_sample) {
  const at::Tensor x = ops::dense(input);
  const bool is_sample_major =
      x.dim() == 0 || x.numel() == 0 || x.stride(0) * x.size(0) == x.numel() || x.size(0) == 1;
  return by_sample && !is_sample_major ? x.contiguous() : x;
}

Pair errors_cpu(const at::Tensor& input, const OptionalTensor& grad, at::TensorList scale,
                at::TensorList offset, at::IntArrayRef qmin, at::IntArrayRef qmax, bool by_sample,
                at::OptionalIntArrayRef block_size) {
  check(input, grad, scale, offset, qmin, qmax, block_size);
  const auto grids = static_cast<std::int64_t>(scale.size());
  const at::TensorOptions options = input.options().dtype(at::kDouble);
  at::Tensor errors = at::zeros({grids, kSums}, options);
  at::Tensor power = at::zeros({}, options);
  if (input.numel() == 0) return {errors, power};
  const at::Tensor x = in_memory_order(input, by_sample);
  const at::Tensor g =
      grad.has_value() ? ops::in_layout_of(grad->to(x.scalar_type()), x) : at::Tensor();
  const at::ScalarType type = ops::compute_type(x);
  const ops::ChannelLayout layout = ops::channel_layout(x, scale[0].sizes(), block_size);
  std::vector<at::Tensor> scales, offsets;
  std::vector<double> lowest, highest;
  for (std::int64_t c = 0; c < grids; ++c) {
    ops::check_scale_values(kOp, ops::contiguous_as(scale[c], type));
    scales.push_back(ops::channel_values(scale[c], layout, type));
    offsets.push_back(ops::channel_values(offset[c], layout, type).expand_as(scales.back()));
    lowest.push_back(static_cast<double>(qmin[c]));
    highest.push_back(static_cast<double>(qmax[c]));
  }
  const at::Tensor all_scales = at::stack(scales);
  const at::Tensor all_offsets = at::stack(offsets);
  const std::int64_t rows = by_sample && x.dim() > 0 ? x.size(0) : 1;
  cpu::QuantizationErrorArguments a{};
  a.input = x.const_data_ptr();
  a.grad = g.defined() ? g.const_data_ptr() : nullptr;
  a.scale = all_scales.const_data_ptr();
  a.offset = all_offsets.const_data_ptr();
  a.shape = layout.shape;
  a.row_length = x.numel() / rows;
  a.candidates = grids;
  a.qmin = lowest.data();
  a.qmax = highest.data();
  const std::int64_t chunks = a.chunks_per_row();
  std::vector<double> partial(static_cast<std::size_t>(rows * chunks * grids * kSums));
  std::vector<double> partial_power(static_cast<std::size_t>(rows * chunks));
  a.partial = partial.data();
  a.power = partial_power.data();
  const std::int64_t task_size = std::min(a.row_length, cpu::kChunk) * grids;
  at::parallel_for(0, rows * chunks, ops::task_grain(task_size),
                   [&](std::int64_t begin, std::int64_t end) {
                     ops::kernels().quantization_errors(ops::element_type(x), a, begin, end);
                   });
  double* result = errors.mutable_data_ptr<double>();
  double* total_power = power.mutable_data_ptr<double>();
  for (std::int64_t row = 0; row < rows; ++row) {
    std::vector<double> change(static_cast<std::size_t>(grids));
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      const std::int64_t task = row * chunks + chunk;
      *total_power += partial_power[static_cast<std::size_t>(task)];
      for (std::int64_t c = 0; c < grids; ++c) {
        const double* sums = partial.data() + (task * grids + c) * kSums;
        result[c * kSums] += sums[0];
        result[c * kSums + 1] += sums[1];
        change[static_cast<std::size_t>(c)] += sums[2];
        result[c * kSums + 3] += sums[3];
      }
    }
    for (std::int64_t c = 0; c < grids; ++c) {
      const double sum = change[static_cast<std::size_t>(c)];
      result[c * kSums + 2] += sum * sum;
    }
  }
  return {errors, power};
}

Pair errors_composite(const at::Tensor& input, const OptionalTensor& grad, at::TensorList scale,
                      at::TensorList offset, at::IntArrayRef qmin, at::IntArrayRef qmax,
                      bool by_sample, at::OptionalIntArrayRef block_size) {
  check(input, grad, scale, offset, qmin, qmax, block_size);
  std::vector<at::Tensor> rows;
  at::Tensor power;
  for (std::size_t c = 0; c < scale.size(); ++c) {
    const ops::Affine affine = ops::affine_of(input, scale[c], offset[c], block_size);
    const at::Tensor unclamped = at::round(affine.input / affine.scale) - affine.offset;
    const at::Tensor error =
        ((unclamped.clamp(qmin[c], qmax[c]) + affine.offset) * affine.scale - affine.input)
            .reshape_symint(input.sym_sizes());
    const at::Tensor change =
        grad.has_value() ? (grad->to(error.scalar_type()) * error).to(at::kDouble)
                         : at::zeros_symint(input.sym_sizes(), input.options().dtype(at::kDouble));
    const at::Tensor by_row = by_sample && input.dim() > 0
                                  ? change.reshape_symint({input.sym_size(0), -1}).sum(1)
                                  : change.sum();
    const at::Tensor is_inside = (unclamped >= qmin[c]).logical_and(unclamped <= qmax[c]);
    const at::Tensor clipped = is_inside.logical_not().sum().to(at::kDouble);
    rows.push_back(at::stack({error.to(at::kDouble).square().sum(), change.square().sum(),
                              by_row.square().sum(), clipped}));
    power = affine.input.to(at::kDouble).square().sum();
  }
  return {at::stack(rows), power};
}

Pair errors_autograd(const at::Tensor& input, const OptionalTensor& grad, at::TensorList scale,
                     at::TensorList offset, at::IntArrayRef qmin, at::IntArrayRef qmax,
                     bool by_sample, at::OptionalIntArrayRef block_size) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return quantization_errors(input, grad, scale, offset, qmin, qmax, by_sample, block_size);
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Meta, m) {
  m.impl("quantization_errors", &aimet::errors_meta);
}
TORCH_LIBRARY_IMPL(aimet, CPU, m) {
  m.impl("quantization_errors", &aimet::errors_cpu);
}
TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("quantization_errors", &aimet::errors_composite);
}
TORCH_LIBRARY_IMPL(aimet, Autograd, m) {
  m.impl("quantization_errors", &aimet::errors_autograd);
}
