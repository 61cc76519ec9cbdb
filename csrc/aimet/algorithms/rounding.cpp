#include "aimet/algorithms/rounding.h"

#include "aimet/algorithms/one_blas_thread.h"
#include "aimet/algorithms/row_products.h"
#include "aimet/cpu/kernels.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/kernel_choice.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

namespace aimet {
namespace {

// Sums of products of float32 are exact to about this share of themselves.
constexpr double kMomentError = 1e-7;

// Lower Cholesky factors of (groups, d, d). A matrix that is not positive definite, since its
// inputs were fewer than its size, gets more on its diagonal; `gram` likewise.
at::Tensor factorize(at::Tensor& gram) {
  const OneBlasThread one_thread;
  for (double damping = 1e-10;; damping *= 100) {
    auto [factor, info] = at::linalg_cholesky_ex(gram);
    const at::Tensor failed = info != 0;
    if (!failed.any().item<bool>() || damping > 1) return factor.contiguous();
    at::Tensor diagonal = gram.diagonal(0, 1, 2);
    const at::Tensor mean = diagonal.mean(1, true);
    const at::Tensor extra = at::where(mean > 0, mean * damping, 1.0);
    diagonal.add_(at::where(failed.unsqueeze(1), extra, 0.0));
  }
}

at::Tensor as_problem_tensor(const char* op, const char* name, const at::Tensor& tensor,
                             int64_t dims) {
  TORCH_CHECK_TYPE(tensor.is_floating_point(), op, ": `", name,
                   "` must have a floating-point dtype, got ", tensor.scalar_type());
  TORCH_CHECK_VALUE(tensor.dim() == dims, op, ": `", name, "` must have ", dims,
                    " dimensions, got shape ", tensor.sizes());
  return tensor.detach().to(at::kCPU, at::kDouble).contiguous();
}

void check_blocks(const char* op, int64_t blocks, int64_t size) {
  TORCH_CHECK_VALUE(blocks >= 1 && size % blocks == 0, op,
                    ": the number of blocks must divide the inputs of an output, ", size, ", got ",
                    blocks);
}

}  // namespace

RoundingProblem rounding_problem(const LayerMoments& moments, const at::Tensor& weight,
                                 bool has_bias, double damping) {
  const char* op = "rounding_problem";
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  TORCH_CHECK_VALUE(damping > 0, op, ": `damping` must be positive, got ", damping);
  TORCH_CHECK_VALUE(moments.cross.sizes() == weight.sizes(), op, ": `weight` must have shape ",
                    moments.cross.sizes(), ", got ", weight.sizes());
  const at::Tensor wanted = as_problem_tensor(op, "weight", weight, 3);
  TORCH_CHECK_VALUE(moments.total.numel() == 0 || moments.total.max().item<double>() > 0, op,
                    ": no data was accumulated");
  // A group without importance keeps its weights.
  const at::Tensor total = at::where(moments.total > 0, moments.total, 1.0).view({-1, 1, 1});
  at::Tensor gram = moments.gram / total;
  at::Tensor cross = moments.cross / total;
  const at::Tensor power = gram.diagonal(0, 1, 2).mean(1, true).unsqueeze(2);  // (groups, 1, 1)
  if (has_bias) {
    const at::Tensor input_mean = moments.input_sum.unsqueeze(1) / total;    // (groups, 1, d)
    const at::Tensor output_mean = moments.output_sum.unsqueeze(2) / total;  // (groups, o, 1)
    gram -= input_mean.transpose(1, 2) * input_mean;
    cross -= output_mean * input_mean;
  }
  const at::Tensor mean = gram.diagonal(0, 1, 2).mean(1, true).unsqueeze(2);  // (groups, 1, 1)
  // Inputs that do not vary say nothing but the errors of their sums: weights stay as they are.
  const at::Tensor ridge = at::where(mean > power * kMomentError, mean * damping,
                                     at::where(power > 0, power, 1.0));
  gram.diagonal(0, 1, 2).add_(ridge.squeeze(2));
  cross += ridge * wanted;
  const at::Tensor factor = factorize(gram);
  // Solved row by row, since LAPACK's order of sums depends on how many rows it is given.
  const at::Tensor transposed = factor.transpose(1, 2).contiguous();
  at::Tensor target = cross.contiguous();
  const int64_t groups = wanted.size(0), o = wanted.size(1), d = wanted.size(2);
  const int64_t bands = (o + cpu::kRoundingRows - 1) / cpu::kRoundingRows;
  at::parallel_for(0, groups * bands, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / bands, row = task % bands * cpu::kRoundingRows;
      ops::kernels().solve_rows(factor.const_data_ptr<double>() + group * d * d,
                                transposed.const_data_ptr<double>() + group * d * d, d,
                                target.mutable_data_ptr<double>() + (group * o + row) * d,
                                std::min(cpu::kRoundingRows, o - row));
    }
  });
  return {target, gram};
}

at::Tensor bias_of_means(const LayerMoments& moments, const at::Tensor& weight) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  const at::Tensor total = at::where(moments.total > 0, moments.total, 1.0).unsqueeze(1);
  const at::Tensor reached =
      (weight.to(at::kCPU, at::kDouble) * moments.input_sum.unsqueeze(1)).sum(2);
  return ((moments.output_sum - reached) / total).flatten();
}

std::tuple<at::Tensor, at::Tensor> search_weight_scales(const at::Tensor& weight,
                                                        const at::Tensor& importance,
                                                        int64_t blocks, int64_t qmin, int64_t qmax,
                                                        bool symmetric) {
  const char* op = "search_weight_scales";
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  ops::check_grid(op, qmin, qmax);
  const at::Tensor w = as_problem_tensor(op, "weight", weight, 3);
  const int64_t groups = w.size(0), o = w.size(1), d = w.size(2);
  check_blocks(op, blocks, d);
  at::Tensor h = importance.numel() == 0 ? at::ones({groups, d}, w.options())
                                         : as_problem_tensor(op, "importance", importance, 2);
  TORCH_CHECK_VALUE(h.size(0) == groups && h.size(1) == d, op, ": `importance` must have shape (",
                    groups, ", ", d, "), got ", h.sizes());
  at::Tensor scale = at::empty({groups, o, blocks}, w.options());
  at::Tensor offset = at::empty_like(scale);
  const int64_t length = d / blocks;
  at::parallel_for(0, groups * o * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / blocks, block = i % blocks;
      ops::kernels().search_scale(
          {w.const_data_ptr<double>() + row * d + block * length,
           h.const_data_ptr<double>() + row / o * d + block * length, length, qmin, qmax, symmetric,
           scale.mutable_data_ptr<double>() + i, offset.mutable_data_ptr<double>() + i});
    }
  });
  return {scale, offset};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> optimize_rounding(const RoundingProblem& problem,
                                                                 const at::Tensor& scale,
                                                                 const at::Tensor& offset,
                                                                 int64_t qmin, int64_t qmax,
                                                                 const RoundingOptions& options) {
  const char* op = "optimize_rounding";
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  ops::check_grid(op, qmin, qmax);
  at::Tensor target = as_problem_tensor(op, "target", problem.target, 3);
  at::Tensor gram = as_problem_tensor(op, "gram", problem.gram, 3);
  const int64_t groups = target.size(0), o = target.size(1), d = target.size(2);
  TORCH_CHECK_VALUE(gram.size(0) == groups && gram.size(1) == d && gram.size(2) == d, op,
                    ": `gram` must have shape (", groups, ", ", d, ", ", d, "), got ",
                    gram.sizes());
  const at::Tensor steps = as_problem_tensor(op, "scale", scale, 3);
  const at::Tensor zeros = as_problem_tensor(op, "offset", offset, 3);
  const int64_t blocks = steps.size(2);
  check_blocks(op, blocks, d);
  TORCH_CHECK_VALUE(steps.size(0) == groups && steps.size(1) == o && zeros.sizes() == steps.sizes(),
                    op, ": `scale` and `offset` must have shape (", groups, ", ", o,
                    ", blocks), got ", steps.sizes(), " and ", zeros.sizes());
  ops::check_scale_values(op, steps);
  TORCH_CHECK_VALUE(options.max_sweeps >= 0, op, ": `max_sweeps` must not be negative, got ",
                    options.max_sweeps);

  TORCH_CHECK_VALUE(!options.scale_factors.empty(), op, ": `scale_factors` must not be empty");
  for (const double factor : options.scale_factors) {
    TORCH_CHECK_VALUE(factor > 0, op, ": `scale_factors` must be positive, got ", factor);
  }

  // The most important columns go last in memory, so that they are rounded first, when all others
  // can still make up for them.
  at::Tensor order = at::argsort(gram.diagonal(0, 1, 2), /*stable=*/true, 1, false);
  const bool is_ordered = options.order && options.feedback;
  const auto along_columns = [&](const at::Tensor& rows) {
    return order.unsqueeze(1).expand_as(rows);
  };
  if (is_ordered) {
    target = target.gather(2, along_columns(target));
    gram = gram.gather(2, along_columns(gram)).gather(1, order.unsqueeze(2).expand_as(gram));
  } else {
    gram = gram.clone();
  }
  const at::Tensor factor_of_gram = options.feedback ? factorize(gram) : gram;
  const at::Tensor wanted_image = multiply_rows(target, gram);
  std::vector<int32_t> block(groups * d);
  for (int64_t i = 0; i < groups * d; ++i) {
    const int64_t column = is_ordered ? order.const_data_ptr<int64_t>()[i] : i % d;
    block[i] = static_cast<int32_t>(column * blocks / d);
  }
  at::Tensor codes, used, objective;
  const auto solve = [&](double factor, bool feedback) {
    at::Tensor its_codes = at::empty_like(target), its_scale = steps * factor;
    at::Tensor its_objective = at::empty({groups, o}, target.options());
    at::Tensor error = at::empty_like(target), image;
    const auto for_each_band = [&](auto kernel) {
      const int64_t bands = (o + cpu::kRoundingRows - 1) / cpu::kRoundingRows;
      at::parallel_for(0, groups * bands, 1, [&](int64_t begin, int64_t end) {
        std::vector<double> scratch(cpu::rounding_scratch_size(d, cpu::kRoundingRows));
        for (int64_t task = begin; task < end; ++task) {
          const int64_t group = task / bands, first = task % bands * cpu::kRoundingRows;
          const int64_t row = group * o;
          const cpu::RoundingArguments arguments{
              gram.const_data_ptr<double>() + group * d * d,
              factor_of_gram.const_data_ptr<double>() + group * d * d,
              target.const_data_ptr<double>() + row * d,
              wanted_image.const_data_ptr<double>() + row * d,
              zeros.const_data_ptr<double>() + row * blocks,
              its_scale.mutable_data_ptr<double>() + row * blocks,
              its_codes.mutable_data_ptr<double>() + row * d,
              error.mutable_data_ptr<double>() + row * d,
              image.defined() ? image.mutable_data_ptr<double>() + row * d : nullptr,
              its_objective.mutable_data_ptr<double>() + row,
              block.data() + group * d,
              d,
              blocks,
              static_cast<double>(qmin),
              static_cast<double>(qmax),
              feedback,
              options.refine_scale,
              options.max_sweeps};
          kernel(arguments, scratch.data(), first, std::min(o, first + cpu::kRoundingRows));
        }
      });
    };
    for_each_band(ops::kernels().start_rows);
    image = multiply_rows(error, gram);
    for_each_band(ops::kernels().improve_rows);
    if (!codes.defined()) {
      std::tie(codes, used, objective) = std::tie(its_codes, its_scale, its_objective);
      return;
    }
    const at::Tensor is_better = (its_objective < objective).unsqueeze(2);
    codes = at::where(is_better, its_codes, codes);
    used = at::where(is_better, its_scale, used);
    objective = at::minimum(its_objective, objective);
  };
  for (const double scale_factor : options.scale_factors) solve(scale_factor, options.feedback);
  if (options.from_nearest_too) solve(1.0, false);
  if (is_ordered) codes = at::empty_like(codes).scatter_(2, along_columns(codes), codes);
  return {codes, used, objective};
}

at::Tensor quadratic_form(const at::Tensor& error, const at::Tensor& gram) {
  const char* op = "quadratic_form";
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  const at::Tensor e = as_problem_tensor(op, "error", error, 3);
  const at::Tensor h = as_problem_tensor(op, "gram", gram, 3);
  TORCH_CHECK_VALUE(h.size(0) == e.size(0) && h.size(1) == e.size(2) && h.size(2) == e.size(2), op,
                    ": `gram` must have shape (", e.size(0), ", ", e.size(2), ", ", e.size(2),
                    "), got ", h.sizes());
  const OneBlasThread one_thread;
  return (at::matmul(e, h) * e).sum(2);
}

}  // namespace aimet
