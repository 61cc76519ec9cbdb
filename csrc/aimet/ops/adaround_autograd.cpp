// Gradients of AdaRound's operators with respect to alpha; weight, scale and offset are constants.
#include "aimet/core/adaround.h"
#include "aimet/ops/adaround.h"
#include "aimet/ops/adaround_checks.h"
#include "aimet/ops/autograd.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/dispatch.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cmath>

namespace aimet {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor quantize_backward(const at::Tensor& grad, const at::Tensor& weight,
                             const at::Tensor& alpha, const at::Tensor& scale,
                             const at::Tensor& offset, int64_t qmin, int64_t qmax) {
  static const auto op = ops::find_operator<decltype(quantize_backward)>(
      "aimet::_adaround_quantize_dequantize_backward");
  return op.call(grad, weight, alpha, scale, offset, qmin, qmax);
}

at::Tensor regularizer_backward(const at::Tensor& grad, const at::Tensor& alpha, double beta) {
  static const auto op =
      ops::find_operator<decltype(regularizer_backward)>("aimet::_adaround_regularizer_backward");
  return op.call(grad, alpha, beta);
}

struct Quantize : torch::autograd::Function<Quantize> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& weight,
                            const at::Tensor& alpha, const at::Tensor& scale,
                            const at::Tensor& offset, int64_t qmin, int64_t qmax, bool hard) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({weight, alpha, scale, offset});
    ops::save_grid(context, qmin, qmax, std::nullopt);
    context->saved_data["hard"] = hard;
    return adaround_quantize_dequantize(weight, alpha, scale, offset, qmin, qmax, hard);
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const ops::SavedGrid grid = ops::saved_grid(context);
    at::Tensor grad_alpha;
    if (!context->saved_data["hard"].toBool()) {
      grad_alpha =
          quantize_backward(grads[0], saved[0], saved[1], saved[2], saved[3], grid.qmin, grid.qmax);
    }
    return {{}, grad_alpha, {}, {}, {}, {}, {}};
  }
};

struct Regularizer : torch::autograd::Function<Regularizer> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& alpha, double beta) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({alpha});
    context->saved_data["beta"] = beta;
    return adaround_regularizer(alpha, beta);
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const double beta = context->saved_data["beta"].toDouble();
    return {regularizer_backward(grads[0], context->get_saved_variables()[0], beta), {}};
  }
};

at::Tensor quantize_autograd(const at::Tensor& weight, const at::Tensor& alpha,
                             const at::Tensor& scale, const at::Tensor& offset, int64_t qmin,
                             int64_t qmax, bool hard) {
  if (ops::needs_gradient(alpha))
    return Quantize::apply(weight, alpha, scale, offset, qmin, qmax, hard);
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return adaround_quantize_dequantize(weight, alpha, scale, offset, qmin, qmax, hard);
}

at::Tensor regularizer_autograd(const at::Tensor& alpha, double beta) {
  if (ops::needs_gradient(alpha)) return Regularizer::apply(alpha, beta);
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return adaround_regularizer(alpha, beta);
}

at::Tensor alpha_autograd(const at::Tensor& weight, const at::Tensor& scale) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return adaround_alpha(weight, scale);
}

void step_autograd(at::Tensor alpha, at::Tensor exp_avg, at::Tensor exp_avg_sq,
                   const at::Tensor& grad, const at::Tensor& weight, const at::Tensor& scale,
                   const at::Tensor& offset, int64_t qmin, int64_t qmax, double beta,
                   double reg_param, double learning_rate, int64_t step) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  adaround_step_(alpha, exp_avg, exp_avg_sq, grad, weight, scale, offset, qmin, qmax, beta,
                 reg_param, learning_rate, step);
}

// Other devices: the same formulas with ATen.

struct Soft {
  at::Tensor value;
  at::Tensor derivative;
};

Soft soft_rounding(const at::Tensor& alpha) {
  const double width = core::kAdaroundZeta - core::kAdaroundGamma;
  const at::Tensor sigmoid = alpha.sigmoid();
  const at::Tensor stretched = sigmoid * width + core::kAdaroundGamma;
  const at::Tensor inside = (stretched >= 0).logical_and(stretched <= 1);
  return {stretched.clamp(0, 1), at::where(inside, sigmoid * (1 - sigmoid) * width, 0.0)};
}

at::Tensor code_of(const at::Tensor& weight, const at::Tensor& h, const at::Tensor& scale,
                   const at::Tensor& offset) {
  return (weight / scale).floor() + h - offset;
}

at::Tensor alpha_composite(const at::Tensor& weight, const at::Tensor& scale) {
  ops::check_adaround("adaround_alpha", weight, weight, scale, scale);
  const double width = core::kAdaroundZeta - core::kAdaroundGamma;
  const at::Tensor ratio = weight / scale;
  const at::Tensor fraction = ratio - ratio.floor() - core::kAdaroundGamma;
  return -(width / fraction - 1).log();
}

at::Tensor quantize_composite(const at::Tensor& weight, const at::Tensor& alpha,
                              const at::Tensor& scale, const at::Tensor& offset, int64_t qmin,
                              int64_t qmax, bool hard) {
  ops::check_adaround("adaround_quantize_dequantize", weight, alpha, scale, offset);
  ops::check_grid("adaround_quantize_dequantize", qmin, qmax);
  const at::Tensor h = hard ? (alpha >= 0).to(alpha.scalar_type()) : soft_rounding(alpha).value;
  return (code_of(weight, h, scale, offset).clamp(qmin, qmax) + offset) * scale;
}

at::Tensor quantize_backward_composite(const at::Tensor& grad, const at::Tensor& weight,
                                       const at::Tensor& alpha, const at::Tensor& scale,
                                       const at::Tensor& offset, int64_t qmin, int64_t qmax) {
  const Soft h = soft_rounding(alpha);
  const at::Tensor code = code_of(weight, h.value, scale, offset);
  const at::Tensor inside = (code >= qmin).logical_and(code <= qmax);
  return at::where(inside, grad * h.derivative * scale, 0.0);
}

at::Tensor regularizer_slope(const Soft& h, double beta) {
  const at::Tensor distance = h.value * 2 - 1;
  return distance.sign() * distance.abs().pow(beta - 1) * (-2 * beta) * h.derivative;
}

at::Tensor regularizer_composite(const at::Tensor& alpha, double beta) {
  return (1 - (soft_rounding(alpha).value * 2 - 1).abs().pow(beta)).sum();
}

at::Tensor regularizer_backward_composite(const at::Tensor& grad, const at::Tensor& alpha,
                                          double beta) {
  return grad * regularizer_slope(soft_rounding(alpha), beta);
}

void step_composite(at::Tensor alpha, at::Tensor exp_avg, at::Tensor exp_avg_sq,
                    const at::Tensor& grad, const at::Tensor& weight, const at::Tensor& scale,
                    const at::Tensor& offset, int64_t qmin, int64_t qmax, double beta,
                    double reg_param, double learning_rate, int64_t step) {
  ops::check_adaround("adaround_step_", weight, alpha, scale, offset);
  at::Tensor gradient = quantize_backward_composite(grad, weight, alpha, scale, offset, qmin, qmax);
  if (beta > 0) gradient = gradient + regularizer_slope(soft_rounding(alpha), beta) * reg_param;
  exp_avg.add_(gradient - exp_avg, 1 - 0.9);
  exp_avg_sq.mul_(0.999).add_(gradient * gradient, 1 - 0.999);
  const double correction1 = 1 - std::pow(0.9, static_cast<double>(step));
  const double correction2 = 1 - std::pow(0.999, static_cast<double>(step));
  alpha.sub_(exp_avg / correction1 / ((exp_avg_sq / correction2).sqrt() + 1e-8), learning_rate);
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Autograd, m) {
  m.impl("adaround_alpha", &aimet::alpha_autograd);
  m.impl("adaround_quantize_dequantize", &aimet::quantize_autograd);
  m.impl("adaround_regularizer", &aimet::regularizer_autograd);
  m.impl("adaround_step_", &aimet::step_autograd);
}

TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("adaround_alpha", &aimet::alpha_composite);
  m.impl("adaround_quantize_dequantize", &aimet::quantize_composite);
  m.impl("_adaround_quantize_dequantize_backward", &aimet::quantize_backward_composite);
  m.impl("adaround_regularizer", &aimet::regularizer_composite);
  m.impl("_adaround_regularizer_backward", &aimet::regularizer_backward_composite);
  m.impl("adaround_step_", &aimet::step_composite);
}
