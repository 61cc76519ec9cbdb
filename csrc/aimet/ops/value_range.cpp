#include "aimet/ops/value_range.h"

#include "aimet/ops/affine_composite.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/dispatch.h"
#include "aimet/ops/kernel_choice.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

namespace aimet {

using Pair = std::tuple<at::Tensor, at::Tensor>;

Pair range_from_values(const at::Tensor& input, at::SymIntArrayRef shape, std::int64_t qmin,
                       std::int64_t qmax, bool symmetric, at::OptionalIntArrayRef block_size) {
  static const auto op = ops::find_operator<decltype(range_from_values)>("aimet::range_from_values");
  return op.call(input, shape, qmin, qmax, symmetric, block_size);
}

namespace {

void check(const at::Tensor& input, at::SymIntArrayRef shape, std::int64_t qmin, std::int64_t qmax,
           at::OptionalIntArrayRef block_size) {
  const char* op = "range_from_values";
  ops::check_is_floating(op, "input", input);
  ops::check_granularity(op, "shape", shape, input.sym_sizes(), block_size);
  ops::check_grid(op, qmin, qmax);
}

Pair search_meta(const at::Tensor& input, at::SymIntArrayRef shape, std::int64_t qmin,
                 std::int64_t qmax, bool, at::OptionalIntArrayRef block_size) {
  check(input, shape, qmin, qmax, block_size);
  const at::TensorOptions options = input.options().dtype(at::kFloat);
  return {at::empty_symint(shape, options), at::empty_symint(shape, options)};
}

Pair search_cpu(const at::Tensor& input, at::SymIntArrayRef symbolic_shape, std::int64_t qmin,
                std::int64_t qmax, bool symmetric, at::OptionalIntArrayRef block_size) {
  check(input, symbolic_shape, qmin, qmax, block_size);
  const at::IntArrayRef shape = C10_AS_INTARRAYREF_SLOW(symbolic_shape);
  const at::TensorOptions options = input.options().dtype(at::kFloat);
  at::Tensor range_min = at::empty(shape, options);
  at::Tensor range_max = at::empty(shape, options);
  const std::int64_t parameters = range_min.numel();
  if (parameters == 0) return {range_min, range_max};
  const at::Tensor values =
      ops::by_parameter(input.to(at::kFloat), symbolic_shape).contiguous();
  const std::int64_t count = values.size(1);
  cpu::RangeSearchArguments arguments{};
  arguments.method = cpu::RangeMethod::kMse;
  arguments.values = values.const_data_ptr<float>();
  arguments.bin_count = count;
  arguments.qmin = qmin;
  arguments.qmax = qmax;
  arguments.is_symmetric = symmetric;
  arguments.range_min = range_min.mutable_data_ptr<float>();
  arguments.range_max = range_max.mutable_data_ptr<float>();
  const cpu::KernelTable& kernels = ops::kernels();
  at::parallel_for(0, parameters, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> scratch(static_cast<std::size_t>(2 * count));
    kernels.range_search(arguments, scratch.data(), begin, end);
  });
  return {range_min, range_max};
}

// A search is a long loop with few results: to the CPU and back.
Pair search_composite(const at::Tensor& input, at::SymIntArrayRef shape, std::int64_t qmin,
                      std::int64_t qmax, bool symmetric, at::OptionalIntArrayRef block_size) {
  auto [low, high] = search_cpu(input.cpu(), shape, qmin, qmax, symmetric, block_size);
  return {low.to(input.device()), high.to(input.device())};
}

Pair search_autograd(const at::Tensor& input, at::SymIntArrayRef shape, std::int64_t qmin,
                     std::int64_t qmax, bool symmetric, at::OptionalIntArrayRef block_size) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return range_from_values(input, shape, qmin, qmax, symmetric, block_size);
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Meta, m) {
  m.impl("range_from_values", &aimet::search_meta);
}
TORCH_LIBRARY_IMPL(aimet, CPU, m) {
  m.impl("range_from_values", &aimet::search_cpu);
}
TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("range_from_values", &aimet::search_composite);
}
TORCH_LIBRARY_IMPL(aimet, Autograd, m) {
  m.impl("range_from_values", &aimet::search_autograd);
}
