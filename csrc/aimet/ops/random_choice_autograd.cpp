#include "aimet/ops/autograd.h"
#include "aimet/ops/dispatch.h"
#include "aimet/ops/random_choice.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <tuple>

namespace aimet {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Pair = std::tuple<at::Tensor, at::Tensor>;

Pair choose_backward(const at::Tensor& grad, double probability, std::int64_t seed) {
  static const auto op =
      ops::find_operator<decltype(choose_backward)>("aimet::_choose_randomly_backward");
  return op.call(grad, probability, seed);
}

struct Choose : torch::autograd::Function<Choose> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& first,
                            const at::Tensor& second, double probability, std::int64_t seed) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->saved_data["probability"] = probability;
    context->saved_data["seed"] = seed;
    return choose_randomly(first, second, probability, seed);
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto [of_first, of_second] =
        choose_backward(grads[0], context->saved_data["probability"].toDouble(),
                        context->saved_data["seed"].toInt());
    return {of_first, of_second, {}, {}};
  }
};

at::Tensor choose_autograd(const at::Tensor& first, const at::Tensor& second, double probability,
                           std::int64_t seed) {
  if (ops::needs_gradient(first, second)) return Choose::apply(first, second, probability, seed);
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return choose_randomly(first, second, probability, seed);
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Autograd, m) {
  m.impl("choose_randomly", &aimet::choose_autograd);
}
