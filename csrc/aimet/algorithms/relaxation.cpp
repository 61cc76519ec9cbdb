#include "aimet/algorithms/relaxation.h"

#include "aimet/algorithms/row_products.h"
#include "aimet/ops/adaround.h"
#include "aimet/ops/checks.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <tuple>
#include <vector>

namespace aimet {
namespace {

// alpha and the state of its optimizer.
class SoftWeights {
 public:
  SoftWeights(at::Tensor weight, at::Tensor scale, at::Tensor offset, int64_t qmin, int64_t qmax,
              const RelaxationOptions& options)
      : weight_(std::move(weight)),
        scale_(std::move(scale)),
        offset_(std::move(offset)),
        qmin_(qmin),
        qmax_(qmax),
        options_(options),
        alpha_(adaround_alpha(weight_, scale_)),
        exp_avg_(at::zeros_like(alpha_)),
        exp_avg_sq_(at::zeros_like(alpha_)) {}

  at::Tensor soft() const { return values(false); }

  void step(const at::Tensor& grad, int64_t iteration) {
    const double beta = adaround_beta(iteration, options_.iterations, options_.first_beta,
                                      options_.last_beta, options_.warm_start);
    adaround_step_(alpha_, exp_avg_, exp_avg_sq_, grad, weight_, scale_, offset_, qmin_, qmax_,
                   beta, options_.reg_param, options_.learning_rate, iteration + 1);
  }

  at::Tensor codes() const {
    return ((values(true) / scale_).round() - offset_).clamp(qmin_, qmax_).to(at::kDouble);
  }

 private:
  at::Tensor values(bool hard) const {
    return adaround_quantize_dequantize(weight_, alpha_, scale_, offset_, qmin_, qmax_, hard);
  }

  at::Tensor weight_, scale_, offset_;
  int64_t qmin_, qmax_;
  RelaxationOptions options_;
  at::Tensor alpha_, exp_avg_, exp_avg_sq_;
};

void check_options(const char* op, const RelaxationOptions& options) {
  TORCH_CHECK_VALUE(options.iterations >= 1, op, ": `iterations` must be positive, got ",
                    options.iterations);
  TORCH_CHECK_VALUE(options.learning_rate > 0, op, ": `learning_rate` must be positive, got ",
                    options.learning_rate);
}

}  // namespace

at::Tensor relax_rounding(const RoundingProblem& problem, const at::Tensor& scale,
                          const at::Tensor& offset, int64_t qmin, int64_t qmax,
                          const RelaxationOptions& options) {
  const char* op = "relax_rounding";
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  check_options(op, options);
  ops::check_grid(op, qmin, qmax);
  const at::Tensor target = problem.target.to(at::kFloat).contiguous();
  const at::Tensor gram = problem.gram.to(at::kFloat).contiguous();
  TORCH_CHECK_VALUE(target.dim() == 3 && gram.dim() == 3 && gram.size(0) == target.size(0) &&
                        gram.size(1) == target.size(2) && gram.size(2) == target.size(2),
                    op, ": `gram` must be (groups, d, d) for a `target` of (groups, o, d), got ",
                    gram.sizes(), " and ", target.sizes());
  TORCH_CHECK_VALUE(scale.dim() == 3 && scale.size(2) >= 1 && target.size(2) % scale.size(2) == 0,
                    op, ": `scale` must be (groups, o, blocks), got ", scale.sizes());
  const auto spread = [&](const at::Tensor& t) {
    return t.to(at::kFloat).repeat_interleave(target.size(2) / t.size(2), 2).contiguous();
  };
  SoftWeights weights(target, spread(scale), spread(offset), qmin, qmax, options);
  for (int64_t iteration = 0; iteration < options.iterations; ++iteration)
    weights.step(multiply_rows(weights.soft() - target, gram) * 2, iteration);
  return weights.codes();
}

at::Tensor relax_rounding_on_samples(const LayerSamples& samples, const at::Tensor& weight,
                                     const at::Tensor& bias, const at::Tensor& scale,
                                     const at::Tensor& offset, int64_t qmin, int64_t qmax,
                                     const LayerGeometry& geometry, at::IntArrayRef output_padding,
                                     int64_t batch_size, int64_t seed,
                                     const RelaxationOptions& options) {
  const char* op = "relax_rounding_on_samples";
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  check_options(op, options);
  ops::check_grid(op, qmin, qmax);
  TORCH_CHECK_VALUE(batch_size >= 1, op, ": `batch_size` must be positive, got ", batch_size);
  TORCH_CHECK_VALUE(samples.input.dim() >= 2 && samples.input.size(0) >= 1 &&
                        samples.input.size(0) == samples.output.size(0),
                    op,
                    ": `input` and `output` must have as many samples, at least one; got shapes ",
                    samples.input.sizes(), " and ", samples.output.sizes());
  const bool is_linear = geometry.kernel_size.empty();
  const at::Tensor input = samples.input.to(at::kFloat);
  const auto activate = [&](const at::Tensor& y) {
    return y.clamp(samples.activation_min, samples.activation_max);
  };
  const at::Tensor wanted = activate(samples.output.to(at::kFloat));
  const auto as_float = [](const at::Tensor& t) {
    return t.defined() && t.numel() > 0 ? t.detach().to(at::kFloat) : at::Tensor();
  };
  const at::Tensor shift = as_float(bias);
  SoftWeights weights(as_float(weight).contiguous(), as_float(scale), as_float(offset), qmin, qmax,
                      options);
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(seed));
  for (int64_t iteration = 0; iteration < options.iterations; ++iteration) {
    const at::Tensor chosen = at::randint(input.size(0), {std::min(batch_size, input.size(0))},
                                          generator, at::TensorOptions().dtype(at::kLong))
                                  .to(input.device());
    const at::Tensor x = input.index_select(0, chosen);
    const at::Tensor y = wanted.index_select(0, chosen);
    const at::Tensor soft = weights.soft();
    const at::Tensor z =
        is_linear
            ? at::linear(x, soft, shift)
            : at::convolution(x, soft, shift, geometry.stride, geometry.padding, geometry.dilation,
                              geometry.is_transposed, output_padding, geometry.groups);
    const int64_t channels = is_linear ? z.size(-1) : z.size(1);
    const double positions = static_cast<double>(z.numel() / channels);
    const at::Tensor is_live = (z > samples.activation_min).logical_and(z < samples.activation_max);
    const at::Tensor slope = at::where(is_live, activate(z) - y, 0.0) * (2 / positions);
    at::Tensor grad;
    if (is_linear) {
      grad = at::matmul(slope.reshape({-1, channels}).t(), x.reshape({-1, x.size(-1)}));
    } else {
      grad = std::get<1>(at::convolution_backward(
          slope, x, soft, std::nullopt, geometry.stride, geometry.padding, geometry.dilation,
          geometry.is_transposed, output_padding, geometry.groups, {false, true, false}));
    }
    weights.step(grad.contiguous(), iteration);
  }
  return weights.codes();
}

}  // namespace aimet
