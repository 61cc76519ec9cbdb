// The operators of layer_moments.h, rounding.h, relaxation.h and seq_mse.h: flat arguments to their
// structs.
#include "aimet/algorithms/layer_moments.h"
#include "aimet/algorithms/relaxation.h"
#include "aimet/algorithms/rounding.h"
#include "aimet/algorithms/seq_mse.h"

#include <torch/library.h>

#include <tuple>

namespace aimet {
namespace {

void accumulate_op(at::Tensor gram, at::Tensor cross, at::Tensor input_sum, at::Tensor output_sum,
                   at::Tensor total, const at::Tensor& input, const at::Tensor& output,
                   at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                   at::IntArrayRef dilation, int64_t groups, bool transposed,
                   const std::optional<at::Tensor>& importance) {
  LayerMoments moments{gram, cross, input_sum, output_sum, total};
  accumulate_layer_moments_(
      moments, input, output,
      {kernel_size.vec(), stride.vec(), padding.vec(), dilation.vec(), groups, transposed},
      importance);
}

std::tuple<at::Tensor, at::Tensor> rounding_problem_op(
    const at::Tensor& gram, const at::Tensor& cross, const at::Tensor& input_sum,
    const at::Tensor& output_sum, const at::Tensor& total, const at::Tensor& weight, bool has_bias,
    double damping) {
  RoundingProblem problem =
      rounding_problem({gram, cross, input_sum, output_sum, total}, weight, has_bias, damping);
  return {problem.target, problem.gram};
}

at::Tensor bias_of_means_op(const at::Tensor& input_sum, const at::Tensor& output_sum,
                            const at::Tensor& total, const at::Tensor& weight) {
  return bias_of_means({{}, {}, input_sum, output_sum, total}, weight);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> optimize_rounding_op(
    const at::Tensor& target, const at::Tensor& gram, const at::Tensor& scale,
    const at::Tensor& offset, int64_t qmin, int64_t qmax, bool feedback, bool refine_scale,
    int64_t max_sweeps, bool order, at::ArrayRef<double> scale_factors, bool from_nearest_too) {
  return optimize_rounding(
      {target, gram}, scale, offset, qmin, qmax,
      {feedback, refine_scale, max_sweeps, order, scale_factors.vec(), from_nearest_too});
}

at::Tensor relax_op(const at::Tensor& target, const at::Tensor& gram, const at::Tensor& scale,
                    const at::Tensor& offset, int64_t qmin, int64_t qmax, int64_t iterations,
                    double learning_rate, double reg_param, double first_beta, double last_beta,
                    double warm_start) {
  return relax_rounding({target, gram}, scale, offset, qmin, qmax,
                        {iterations, learning_rate, reg_param, first_beta, last_beta, warm_start});
}

at::Tensor relax_on_samples_op(const at::Tensor& input, const at::Tensor& output,
                               double activation_min, double activation_max,
                               const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                               const at::Tensor& scale, const at::Tensor& offset, int64_t qmin,
                               int64_t qmax, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                               at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups,
                               bool transposed, at::IntArrayRef output_padding, int64_t batch_size,
                               int64_t seed, int64_t iterations, double learning_rate,
                               double reg_param, double first_beta, double last_beta,
                               double warm_start) {
  return relax_rounding_on_samples(
      {input, output, activation_min, activation_max}, weight, bias.value_or(at::Tensor()), scale,
      offset, qmin, qmax,
      {kernel_size.vec(), stride.vec(), padding.vec(), dilation.vec(), groups, transposed},
      output_padding, batch_size, seed,
      {iterations, learning_rate, reg_param, first_beta, last_beta, warm_start});
}

}  // namespace

TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("accumulate_layer_moments_", TORCH_FN(accumulate_op));
  m.impl("rounding_problem", TORCH_FN(rounding_problem_op));
  m.impl("bias_of_means", TORCH_FN(bias_of_means_op));
  m.impl("search_weight_scales", TORCH_FN(search_weight_scales));
  m.impl("optimize_rounding", TORCH_FN(optimize_rounding_op));
  m.impl("relax_rounding", TORCH_FN(relax_op));
  m.impl("relax_rounding_on_samples", TORCH_FN(relax_on_samples_op));
  m.impl("seq_mse_range", TORCH_FN(seq_mse_range));
  m.impl("quadratic_form", TORCH_FN(quadratic_form));
}

}  // namespace aimet
