#include "aimet/ops/adaround.h"

#include "aimet/core/adaround.h"
#include "aimet/ops/adaround_checks.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/dispatch.h"
#include "aimet/ops/kernel_choice.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <cmath>
#include <vector>

namespace aimet {
namespace ops {

void check_adaround(const char* op, const at::Tensor& weight, const at::Tensor& alpha,
                    const at::Tensor& scale, const at::Tensor& offset) {
  TORCH_CHECK_TYPE(weight.scalar_type() == at::kFloat || weight.scalar_type() == at::kDouble, op,
                   ": `weight` must be float32 or float64, got ", weight.scalar_type());
  TORCH_CHECK_TYPE(alpha.scalar_type() == weight.scalar_type(), op,
                   ": `alpha` must have the dtype of `weight`, ", weight.scalar_type(), ", got ",
                   alpha.scalar_type());
  TORCH_CHECK_VALUE(alpha.sym_sizes() == weight.sym_sizes(), op,
                    ": `alpha` must have the shape of `weight`, ", weight.sym_sizes(), ", got ",
                    alpha.sym_sizes());
  check_affine(op, weight, scale, offset, std::nullopt);
}

}  // namespace ops

namespace {

// A parameter for each element, in the compute type.
at::Tensor spread(const at::Tensor& parameter, const at::Tensor& like) {
  return parameter.detach().to(like.scalar_type()).expand(like.sizes()).contiguous();
}

template <typename Body>
void for_each_element(const at::Tensor& like, const Body& body) {
  const auto run = [&](auto zero) {
    at::parallel_for(0, like.numel(), ops::kGrainSize / 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(zero, i);
    });
  };
  if (like.scalar_type() == at::kDouble) {
    run(double{});
  } else {
    run(float{});
  }
}

at::Tensor alpha_cpu(const at::Tensor& weight, const at::Tensor& scale) {
  ops::check_adaround("adaround_alpha", weight, weight, scale, scale);
  const at::Tensor w = weight.contiguous(), s = spread(scale, weight);
  ops::check_scale_values("adaround_alpha", s);
  at::Tensor result = at::empty(w.sizes(), w.options());
  for_each_element(w, [&](auto zero, int64_t i) {
    using T = decltype(zero);
    result.mutable_data_ptr<T>()[i] = core::soft_rounding_inverse(
        T(core::fraction_of_step(w.const_data_ptr<T>()[i], s.const_data_ptr<T>()[i])));
  });
  return result;
}

at::Tensor quantize_cpu(const at::Tensor& weight, const at::Tensor& alpha, const at::Tensor& scale,
                        const at::Tensor& offset, int64_t qmin, int64_t qmax, bool hard) {
  const char* op = "adaround_quantize_dequantize";
  ops::check_adaround(op, weight, alpha, scale, offset);
  ops::check_grid(op, qmin, qmax);
  const at::Tensor w = weight.contiguous(), v = alpha.contiguous();
  const at::Tensor s = spread(scale, weight), o = spread(offset, weight);
  ops::check_scale_values(op, s);
  at::Tensor result = at::empty(w.sizes(), w.options());
  for_each_element(w, [&](auto zero, int64_t i) {
    using T = decltype(zero);
    const core::AffineParams<T> params{s.const_data_ptr<T>()[i], o.const_data_ptr<T>()[i], T(qmin),
                                       T(qmax)};
    result.mutable_data_ptr<T>()[i] =
        core::soft_weight(w.const_data_ptr<T>()[i], v.const_data_ptr<T>()[i], params, hard).value;
  });
  return result;
}

at::Tensor quantize_backward_cpu(const at::Tensor& grad, const at::Tensor& weight,
                                 const at::Tensor& alpha, const at::Tensor& scale,
                                 const at::Tensor& offset, int64_t qmin, int64_t qmax) {
  const at::Tensor g = grad.contiguous(), w = weight.contiguous(), v = alpha.contiguous();
  const at::Tensor s = spread(scale, weight), o = spread(offset, weight);
  at::Tensor result = at::empty(w.sizes(), w.options());
  for_each_element(w, [&](auto zero, int64_t i) {
    using T = decltype(zero);
    const core::AffineParams<T> params{s.const_data_ptr<T>()[i], o.const_data_ptr<T>()[i], T(qmin),
                                       T(qmax)};
    const T slope =
        core::soft_weight(w.const_data_ptr<T>()[i], v.const_data_ptr<T>()[i], params, false)
            .derivative;
    result.mutable_data_ptr<T>()[i] = g.const_data_ptr<T>()[i] * slope;
  });
  return result;
}

at::Tensor regularizer_cpu(const at::Tensor& alpha, double beta) {
  ops::check_adaround("adaround_regularizer", alpha, alpha, alpha, alpha);
  const at::Tensor v = alpha.contiguous();
  at::Tensor terms = at::empty(v.sizes(), v.options());
  for_each_element(v, [&](auto zero, int64_t i) {
    using T = decltype(zero);
    terms.mutable_data_ptr<T>()[i] =
        core::rounding_regularizer(core::soft_rounding(v.const_data_ptr<T>()[i]).value, T(beta));
  });
  return terms.sum();
}

at::Tensor regularizer_backward_cpu(const at::Tensor& grad, const at::Tensor& alpha, double beta) {
  const at::Tensor v = alpha.contiguous();
  at::Tensor result = at::empty(v.sizes(), v.options());
  for_each_element(v, [&](auto zero, int64_t i) {
    using T = decltype(zero);
    const core::SoftRounding<T> h = core::soft_rounding(v.const_data_ptr<T>()[i]);
    result.mutable_data_ptr<T>()[i] =
        core::rounding_regularizer_derivative(h.value, T(beta)) * h.derivative;
  });
  return result * grad;
}

void check_step(const at::Tensor& alpha, const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq,
                const at::Tensor& grad, const at::Tensor& weight, const at::Tensor& scale,
                const at::Tensor& offset, int64_t qmin, int64_t qmax, int64_t step) {
  const char* op = "adaround_step_";
  ops::check_adaround(op, weight, alpha, scale, offset);
  ops::check_grid(op, qmin, qmax);
  TORCH_CHECK_VALUE(step >= 1, op, ": `step` counts from 1, got ", step);
  const std::pair<const char*, const at::Tensor&> others[] = {
      {"exp_avg", exp_avg}, {"exp_avg_sq", exp_avg_sq}, {"grad", grad}};
  for (const auto& [name, tensor] : others) {
    TORCH_CHECK_VALUE(
        tensor.sym_sizes() == alpha.sym_sizes() && tensor.scalar_type() == alpha.scalar_type(), op,
        ": `", name, "` must have shape and dtype of `alpha`, ", alpha.sym_sizes(), " and ",
        alpha.scalar_type(), ", got ", tensor.sym_sizes(), " and ", tensor.scalar_type());
  }
}

void step_cpu(at::Tensor alpha, at::Tensor exp_avg, at::Tensor exp_avg_sq, const at::Tensor& grad,
              const at::Tensor& weight, const at::Tensor& scale, const at::Tensor& offset,
              int64_t qmin, int64_t qmax, double beta, double reg_param, double learning_rate,
              int64_t step) {
  check_step(alpha, exp_avg, exp_avg_sq, grad, weight, scale, offset, qmin, qmax, step);
  TORCH_CHECK_VALUE(
      alpha.is_contiguous() && exp_avg.is_contiguous() && exp_avg_sq.is_contiguous(),
      "adaround_step_: `alpha`, `exp_avg` and `exp_avg_sq` must be contiguous: they are updated in "
      "place");
  const at::Tensor g = grad.contiguous(), w = weight.contiguous();
  const at::Tensor s = spread(scale, weight), o = spread(offset, weight);
  const core::AdamSettings settings{learning_rate, 0.9, 0.999, 1e-8, step};
  const double correction1 = 1 - std::pow(settings.beta1, static_cast<double>(step));
  const double correction2 = 1 - std::pow(settings.beta2, static_cast<double>(step));
  for_each_element(alpha, [&](auto zero, int64_t i) {
    using T = decltype(zero);
    const core::AffineParams<T> params{s.const_data_ptr<T>()[i], o.const_data_ptr<T>()[i], T(qmin),
                                       T(qmax)};
    T& v = alpha.mutable_data_ptr<T>()[i];
    T gradient = g.const_data_ptr<T>()[i] *
                 core::soft_weight(w.const_data_ptr<T>()[i], v, params, false).derivative;
    if (beta > 0) {
      const core::SoftRounding<T> h = core::soft_rounding(v);
      gradient +=
          T(reg_param) * core::rounding_regularizer_derivative(h.value, T(beta)) * h.derivative;
    }
    v = core::adam_step(v, gradient, exp_avg.mutable_data_ptr<T>() + i,
                        exp_avg_sq.mutable_data_ptr<T>() + i, T(correction1), T(correction2),
                        settings);
  });
}

at::Tensor alpha_meta(const at::Tensor& weight, const at::Tensor& scale) {
  ops::check_adaround("adaround_alpha", weight, weight, scale, scale);
  return at::empty_symint(weight.sym_sizes(), weight.options());
}

at::Tensor quantize_meta(const at::Tensor& weight, const at::Tensor& alpha, const at::Tensor& scale,
                         const at::Tensor& offset, int64_t qmin, int64_t qmax, bool) {
  ops::check_adaround("adaround_quantize_dequantize", weight, alpha, scale, offset);
  ops::check_grid("adaround_quantize_dequantize", qmin, qmax);
  return at::empty_symint(weight.sym_sizes(), weight.options());
}

at::Tensor quantize_backward_meta(const at::Tensor& grad, const at::Tensor&, const at::Tensor&,
                                  const at::Tensor&, const at::Tensor&, int64_t, int64_t) {
  return at::empty_symint(grad.sym_sizes(), grad.options());
}

at::Tensor regularizer_meta(const at::Tensor& alpha, double) {
  return at::empty({}, alpha.options());
}

at::Tensor regularizer_backward_meta(const at::Tensor&, const at::Tensor& alpha, double) {
  return at::empty_symint(alpha.sym_sizes(), alpha.options());
}

void step_meta(at::Tensor alpha, at::Tensor exp_avg, at::Tensor exp_avg_sq, const at::Tensor& grad,
               const at::Tensor& weight, const at::Tensor& scale, const at::Tensor& offset,
               int64_t qmin, int64_t qmax, double, double, double, int64_t step) {
  check_step(alpha, exp_avg, exp_avg_sq, grad, weight, scale, offset, qmin, qmax, step);
}

}  // namespace

at::Tensor adaround_alpha(const at::Tensor& weight, const at::Tensor& scale) {
  static const auto op = ops::find_operator<decltype(adaround_alpha)>("aimet::adaround_alpha");
  return op.call(weight, scale);
}

at::Tensor adaround_quantize_dequantize(const at::Tensor& weight, const at::Tensor& alpha,
                                        const at::Tensor& scale, const at::Tensor& offset,
                                        int64_t qmin, int64_t qmax, bool hard) {
  static const auto op = ops::find_operator<decltype(adaround_quantize_dequantize)>(
      "aimet::adaround_quantize_dequantize");
  return op.call(weight, alpha, scale, offset, qmin, qmax, hard);
}

at::Tensor adaround_regularizer(const at::Tensor& alpha, double beta) {
  static const auto op =
      ops::find_operator<decltype(adaround_regularizer)>("aimet::adaround_regularizer");
  return op.call(alpha, beta);
}

double adaround_beta(int64_t iteration, int64_t iterations, double first, double last,
                     double warm_start) {
  TORCH_CHECK_VALUE(iterations >= 1 && iteration >= 0 && iteration <= iterations,
                    "adaround_beta: `iteration` must be between 0 and `iterations`, got ",
                    iteration, " of ", iterations);
  TORCH_CHECK_VALUE(warm_start >= 0 && warm_start <= 1,
                    "adaround_beta: `warm_start` must be between 0 and 1, got ", warm_start);
  return core::annealed_beta(iteration, iterations, first, last, warm_start);
}

void adaround_step_(const at::Tensor& alpha, const at::Tensor& exp_avg,
                    const at::Tensor& exp_avg_sq, const at::Tensor& grad, const at::Tensor& weight,
                    const at::Tensor& scale, const at::Tensor& offset, int64_t qmin, int64_t qmax,
                    double beta, double reg_param, double learning_rate, int64_t step) {
  static const auto op =
      ops::find_operator<void(at::Tensor, at::Tensor, at::Tensor, const at::Tensor&,
                              const at::Tensor&, const at::Tensor&, const at::Tensor&, int64_t,
                              int64_t, double, double, double, int64_t)>("aimet::adaround_step_");
  op.call(alpha, exp_avg, exp_avg_sq, grad, weight, scale, offset, qmin, qmax, beta, reg_param,
          learning_rate, step);
}

}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CPU, m) {
  m.impl("adaround_alpha", &aimet::alpha_cpu);
  m.impl("adaround_quantize_dequantize", &aimet::quantize_cpu);
  m.impl("_adaround_quantize_dequantize_backward", &aimet::quantize_backward_cpu);
  m.impl("adaround_regularizer", &aimet::regularizer_cpu);
  m.impl("_adaround_regularizer_backward", &aimet::regularizer_backward_cpu);
  m.impl("adaround_step_", &aimet::step_cpu);
}

TORCH_LIBRARY_IMPL(aimet, Meta, m) {
  m.impl("adaround_alpha", &aimet::alpha_meta);
  m.impl("adaround_quantize_dequantize", &aimet::quantize_meta);
  m.impl("_adaround_quantize_dequantize_backward", &aimet::quantize_backward_meta);
  m.impl("adaround_regularizer", &aimet::regularizer_meta);
  m.impl("_adaround_regularizer_backward", &aimet::regularizer_backward_meta);
  m.impl("adaround_step_", &aimet::step_meta);
}

TORCH_LIBRARY_IMPL(aimet, CompositeImplicitAutograd, m) {
  m.impl("adaround_beta", &aimet::adaround_beta);
}
