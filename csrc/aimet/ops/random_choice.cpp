#include "aimet/ops/random_choice.h"

#include "aimet/core/random_choice.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/dispatch.h"
#include "aimet/ops/kernel_choice.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/where.h>
#include <torch/library.h>

namespace aimet {
namespace {

using Pair = std::tuple<at::Tensor, at::Tensor>;

void check(const at::Tensor& first, const at::Tensor& second, double probability) {
  const char* op = "choose_randomly";
  ops::check_is_floating(op, "first", first);
  TORCH_CHECK_TYPE(second.scalar_type() == first.scalar_type(), op,
                   ": `second` must have the dtype of `first`, ", first.scalar_type(), ", got ",
                   second.scalar_type());
  TORCH_CHECK_VALUE(second.sym_sizes() == first.sym_sizes(), op,
                    ": `second` must have the shape of `first`, ", first.sym_sizes(), ", got ",
                    second.sym_sizes());
  TORCH_CHECK_VALUE(probability >= 0 && probability <= 1, op,
                    ": `probability` must be between 0 and 1, got ", probability);
}

// Elements are copied as they are, so only their size matters.
template <typename Body>
void with_bits(const at::Tensor& tensor, const Body& body) {
  switch (tensor.element_size()) {
    case 2:
      return body(std::uint16_t{});
    case 4:
      return body(std::uint32_t{});
    default:
      return body(std::uint64_t{});
  }
}

template <typename Body>
void for_each_choice(std::int64_t count, double probability, std::int64_t seed, const Body& body) {
  const auto limit = static_cast<float>(probability);
  at::parallel_for(0, count, ops::kGrainSize / 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) body(i, core::uniform_at(seed, i) < limit);
  });
}

at::Tensor choose_cpu(const at::Tensor& first, const at::Tensor& second, double probability,
                      std::int64_t seed) {
  check(first, second, probability);
  const at::Tensor a = first.contiguous(), b = second.contiguous();
  at::Tensor result = at::empty(a.sizes(), a.options());
  with_bits(a, [&](auto zero) {
    using Bits = decltype(zero);
    const auto* from_first = static_cast<const Bits*>(a.const_data_ptr());
    const auto* from_second = static_cast<const Bits*>(b.const_data_ptr());
    auto* to = static_cast<Bits*>(result.mutable_data_ptr());
    for_each_choice(a.numel(), probability, seed, [&](std::int64_t i, bool is_first) {
      to[i] = is_first ? from_first[i] : from_second[i];
    });
  });
  return result;
}

Pair choose_backward_cpu(const at::Tensor& grad, double probability, std::int64_t seed) {
  const at::Tensor g = grad.contiguous();
  at::Tensor of_first = at::empty(g.sizes(), g.options());
  at::Tensor of_second = at::empty(g.sizes(), g.options());
  with_bits(g, [&](auto zero) {
    using Bits = decltype(zero);
    const auto* from = static_cast<const Bits*>(g.const_data_ptr());
    auto* to_first = static_cast<Bits*>(of_first.mutable_data_ptr());
    auto* to_second = static_cast<Bits*>(of_second.mutable_data_ptr());
    for_each_choice(g.numel(), probability, seed, [&](std::int64_t i, bool is_first) {
      to_first[i] = is_first ? from[i] : Bits{0};
      to_second[i] = is_first ? Bits{0} : from[i];
    });
  });
  return {of_first, of_second};
}

// The same formula with ATen, for other devices: 32-bit numbers in int64, of whose products the low
// half is right whatever overflows.
at::Tensor mix_bits(const at::Tensor& x) {
  constexpr std::int64_t kLow = 0xffffffff;
  at::Tensor y = x.bitwise_xor(x.bitwise_right_shift(16));
  y = (y * static_cast<std::int64_t>(core::kMixFirst)).bitwise_and(kLow);
  y = y.bitwise_xor(y.bitwise_right_shift(13));
  y = (y * static_cast<std::int64_t>(core::kMixSecond)).bitwise_and(kLow);
  return y.bitwise_xor(y.bitwise_right_shift(16));
}

at::Tensor is_first(const at::Tensor& like, double probability, std::int64_t seed) {
  const auto s = static_cast<std::uint64_t>(seed);
  const at::Tensor index =
      at::arange(like.numel(), like.options().dtype(at::kLong)).reshape(like.sizes());
  const at::Tensor low = mix_bits(index.bitwise_and(0xffffffff))
                             .bitwise_xor(static_cast<std::int64_t>(core::mix_bits(
                                 static_cast<std::uint32_t>(s) ^ core::kMixFirst)));
  const at::Tensor high = index.bitwise_right_shift(32).bitwise_xor(
      static_cast<std::int64_t>(core::mix_bits(static_cast<std::uint32_t>(s >> 32))));
  const at::Tensor bits = mix_bits(mix_bits(low).bitwise_xor(high)).bitwise_right_shift(8);
  return bits.to(at::kFloat) * 0x1p-24f < static_cast<float>(probability);
}

at::Tensor choose_composite(const at::Tensor& first, const at::Tensor& second, double probability,
                            std::int64_t seed) {
  check(first, second, probability);
  return at::where(is_first(first, probability, seed), first, second);
}

Pair choose_backward_composite(const at::Tensor& grad, double probability, std::int64_t seed) {
  const at::Tensor chosen = is_first(grad, probability, seed);
  return {at::where(chosen, grad, 0.0), at::where(chosen, 0.0, grad)};
}

at::Tensor choose_meta(const at::Tensor& first, const at::Tensor& second, double probability,
                       std::int64_t) {
  check(first, second, probability);
  return at::empty_symint(first.sym_sizes(), first.options());
}

Pair choose_backward_meta(const at::Tensor& grad, double, std::int64_t) {
  return {at::empty_symint(grad.sym_sizes(), grad.options()),
          at::empty_symint(grad.sym_sizes(), grad.options())};
}

}  // namespace

at::Tensor choose_randomly(const at::Tensor& first, const at::Tensor& second, double probability,
                           std::int64_t seed) {
  static const auto op = ops::find_operator<decltype(choose_randomly)>("aimet::choose_randomly");
  return op.call(first, second, probability, seed);
}

}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CPU, m) {
  m.impl("choose_randomly", &aimet::choose_cpu);
  m.impl("_choose_randomly_backward", &aimet::choose_backward_cpu);
}
TORCH_LIBRARY_IMPL(aimet, Meta, m) {
  m.impl("choose_randomly", &aimet::choose_meta);
  m.impl("_choose_randomly_backward", &aimet::choose_backward_meta);
}
TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("choose_randomly", &aimet::choose_composite);
  m.impl("_choose_randomly_backward", &aimet::choose_backward_composite);
}
