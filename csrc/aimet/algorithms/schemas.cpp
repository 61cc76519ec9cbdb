// The operators of the algorithms layer on one page. Their contracts are in the headers of the same
// names. CompositeImplicitAutograd: written with ATen operators throughout, so devices, meta
// tensors and gradients come from those. equalize_cross_layers_ iterates until the weights say
// stop, tie_free_multiplier searches among numbers, and the moments and sums of bias correction look at
// values; they have neither gradient nor meta kernel.
#include "aimet/algorithms/activation_smoothing.h"
#include "aimet/algorithms/batch_norm_folding.h"
#include "aimet/algorithms/bias_correction.h"
#include "aimet/algorithms/cross_layer_equalization.h"
#include "aimet/algorithms/high_bias_absorption.h"
#include "aimet/algorithms/integer_layers.h"
#include "aimet/algorithms/tie_free.h"

#include <torch/library.h>

#include <tuple>
#include <vector>

namespace aimet {
namespace {

// Operators take flat lists: chain i is the next chain_lengths[i] of `chain_layers`, an absent bias
// an empty tensor.
std::tuple<std::vector<at::Tensor>, int64_t> equalize_flat_lists_(
    at::TensorList weights, at::TensorList biases, at::IntArrayRef groups,
    const c10::List<bool>& transposed, at::IntArrayRef chain_layers, at::IntArrayRef chain_lengths,
    int64_t max_sweeps, double tolerance, double max_scale) {
  const char* op = "equalize_cross_layers_";
  TORCH_CHECK_VALUE(
      biases.size() == weights.size() && groups.size() == weights.size() &&
          transposed.size() == weights.size(),
      op, ": `weights`, `biases`, `groups` and `transposed` must have one entry a layer, got ",
      weights.size(), ", ", biases.size(), ", ", groups.size(), " and ", transposed.size());
  std::vector<Layer> layers;
  for (size_t index = 0; index < weights.size(); ++index) {
    const bool has_bias = biases[index].numel() > 0;
    layers.push_back({weights[index], has_bias ? biases[index] : at::Tensor(), groups[index],
                      transposed[index]});
  }
  std::vector<std::vector<int64_t>> chains;
  size_t begin = 0;
  for (const int64_t length : chain_lengths) {
    TORCH_CHECK_VALUE(length >= 0 && begin + length <= chain_layers.size(), op,
                      ": `chain_lengths` must add up to the length of `chain_layers`, ",
                      chain_layers.size(), ", got ", chain_lengths);
    chains.emplace_back(chain_layers.begin() + begin, chain_layers.begin() + begin + length);
    begin += length;
  }
  TORCH_CHECK_VALUE(begin == chain_layers.size(), op,
                    ": `chain_lengths` must add up to the length of `chain_layers`, ",
                    chain_layers.size(), ", got ", chain_lengths);
  EqualizationResult result =
      equalize_cross_layers_(layers, chains, {max_sweeps, tolerance, max_scale});
  return {std::move(result.scales), result.sweep_count};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(aimet, m) {
  // Scale and shift of a batch normalization in evaluation mode.
  m.def(
      "merge_batch_norm_statistics(Tensor running_mean, Tensor running_var, Tensor? bn_weight, "
      "Tensor? bn_bias, "
      "float eps) -> (Tensor scale, Tensor shift)",
      {at::Tag::pt2_compliant_tag});
  // Weight and bias of a Conv, ConvTranspose or Linear merged with the batch normalization beside
  // it.
  m.def(
      "fold_batch_norm(Tensor weight, Tensor? bias, Tensor running_mean, Tensor running_var, "
      "Tensor? bn_weight, "
      "Tensor? bn_bias, float eps, int groups=1, bool transposed=False, bool fold_into_next=False) "
      "-> (Tensor weight, Tensor bias)",
      {at::Tag::pt2_compliant_tag});
  // All chains of a network, in place, until they are in balance. Scales: of each link of each
  // chain, in order.
  m.def(
      "equalize_cross_layers_(Tensor(a!)[] weights, Tensor(b!)[] biases, int[] groups, bool[] "
      "transposed, "
      "int[] chain_layers, int[] chain_lengths, int max_sweeps=50, float tolerance=0.001, float "
      "max_scale=1024.0) "
      "-> (Tensor[] scales, int sweep_count)");
  // (bias, next_bias, absorbed): moves c = max(0, beta - 3 |gamma|) from one bias to the next.
  m.def(
      "absorb_high_bias(Tensor bias, Tensor bn_weight, Tensor bn_bias, Tensor? upper_limit, Tensor "
      "next_weight, "
      "Tensor next_bias, int groups=1, bool transposed=False, bool rectified=True) "
      "-> (Tensor bias, Tensor next_bias, Tensor absorbed)",
      {at::Tag::pt2_compliant_tag});
  // layer_moments.h: adds a batch to the sums; kernel_size and the three after it are empty for
  // Linear.
  m.def(
      "accumulate_layer_moments_(Tensor(a!) gram, Tensor(b!) cross, Tensor(c!) input_sum, "
      "Tensor(d!) output_sum, Tensor(e!) total, Tensor input, Tensor output, int[] kernel_size, "
      "int[] stride, int[] padding, int[] dilation, int groups=1, bool transposed=False, Tensor? "
      "importance=None) -> ()");
  // rounding.h: moments -> the real weights with the least error, and the matrix of its form.
  m.def(
      "rounding_problem(Tensor gram, Tensor cross, Tensor input_sum, Tensor output_sum, Tensor "
      "total, Tensor weight, bool has_bias, float damping=0.01) -> (Tensor target, Tensor gram)");
  m.def(
      "bias_of_means(Tensor input_sum, Tensor output_sum, Tensor total, Tensor weight) -> Tensor");
  m.def(
      "search_weight_scales(Tensor weight, Tensor importance, int blocks, int qmin, int qmax, bool "
      "symmetric) -> (Tensor scale, Tensor offset)");
  m.def(
      "optimize_rounding(Tensor target, Tensor gram, Tensor scale, Tensor offset, int qmin, int "
      "qmax, bool feedback=True, bool refine_scale=False, int max_sweeps=100, bool order=True, "
      "float[] scale_factors=[1.0], bool from_nearest_too=False) -> (Tensor codes, Tensor scale, "
      "Tensor objective)");
  // relaxation.h: AdaRound's relaxation, on the quadratic form or on samples.
  m.def(
      "relax_rounding(Tensor target, Tensor gram, Tensor scale, Tensor offset, int qmin, int qmax, "
      "int iterations=10000, float learning_rate=0.001, float reg_param=0.01, float "
      "first_beta=20.0, float last_beta=2.0, float warm_start=0.2) -> Tensor");
  m.def(
      "relax_rounding_on_samples(Tensor input, Tensor output, float activation_min, float "
      "activation_max, Tensor weight, Tensor? bias, Tensor scale, Tensor offset, int qmin, int "
      "qmax, int[] kernel_size, int[] stride, int[] padding, int[] dilation, int groups, bool "
      "transposed, int[] output_padding, int batch_size=32, int seed=0, int iterations=10000, "
      "float "
      "learning_rate=0.001, float reg_param=0.01, float first_beta=20.0, float last_beta=2.0, "
      "float "
      "warm_start=0.2) -> Tensor");
  // seq_mse.h: ranges by trying fractions of the largest.
  m.def(
      "seq_mse_range(Tensor weight, Tensor gram, Tensor min, Tensor max, int blocks, int qmin, int "
      "qmax, bool symmetric, int num_candidates=20) -> (Tensor range_min, Tensor range_max, Tensor "
      "loss)");
  m.def("quadratic_form(Tensor error, Tensor gram) -> Tensor");
  // Mean and deviation of a normal variable behind ReLU, ReLU6 or any other clip.
  m.def(
      "clipped_normal_moments(Tensor mean, Tensor deviation, Tensor? lower=None, Tensor? "
      "upper=None) -> (Tensor mean, Tensor deviation)");
  // Takes out of a bias what rounded weights add to the mean of each output.
  m.def(
      "correct_bias_analytically(Tensor bias, Tensor weight, Tensor quantized_weight, Tensor "
      "expected_input, int groups=1, bool transposed=False) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  // Sums over all dimensions but one, in float64; returns how many values were added to each.
  m.def("add_channel_sums_(Tensor(a!) sums, Tensor values, int channel_axis) -> int");
  // Scales that move the spread of an activation's channels into the weights that read it.
  m.def(
      "smoothing_scale(Tensor activation_range, Tensor[] weights, float alpha=0.5, float "
      "max_scale=1024.0) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  // logits_range.h: the range that keeps the probabilities of a classifier.
  m.def(
      "range_from_cross_entropy(Tensor logits, int qmin, int qmax, bool symmetric, Tensor? "
      "reference=None, int class_axis=-1) -> (Tensor min, Tensor max)",
      {at::Tag::pt2_compliant_tag});
  // norm_range.h: the range of what LayerNorm or RMSNorm reads that keeps what it gives.
  m.def(
      "range_before_norm(Tensor input, Tensor? weight, float eps, int qmin, int qmax, bool "
      "symmetric, bool rms=False) -> (Tensor min, Tensor max)",
      {at::Tag::pt2_compliant_tag});
  // low_rank.h: two smaller layers in place of one. factorization: spatial, spatial_horizontal,
  // weight, weight_output.
  m.def(
      "low_rank_cost(int[] weight_shape, str factorization, int groups, bool transposed, int[] "
      "stride, bool counts_macs=True) -> (int per_rank, int full, int max_rank)");
  m.def(
      "rank_of_cost_ratio(int per_rank, int full, int max_rank, float ratio, int multiplicity=1) "
      "-> int");
  m.def(
      "low_rank_split(Tensor weight, str factorization, int rank, int groups=1, bool "
      "transposed=False) -> (Tensor first, Tensor second, Tensor error)");
  m.def(
      "low_rank_fit(Tensor target, Tensor gram, int[] kernel_size, str factorization, int rank, "
      "bool transposed=False, int max_sweeps=30, float tolerance=0.001, int max_products=8) -> "
      "(Tensor first, Tensor second, Tensor error)");
  m.def(
      "low_rank_fits(Tensor target, Tensor gram, int[] kernel_size, str factorization, int[] ranks, "
      "bool transposed=False, int max_sweeps=30, float tolerance=0.001, int max_products=8) -> "
      "(Tensor[] first, Tensor[] second, Tensor[] errors)");
  m.def(
      "low_rank_product(Tensor first, Tensor second, str factorization, int groups=1, bool "
      "transposed=False) -> Tensor");
  // ratio_selection.h: one candidate for each layer, with the least sum of errors within a budget.
  m.def(
      "select_candidates(Tensor costs, Tensor errors, Tensor budgets, int max_states=20000) -> "
      "(Tensor choices, Tensor errors, bool is_exact)");
  // channel_selection.h: which channels to keep, from what the layers that read them get.
  m.def("channel_magnitude(Tensor weight, Tensor unit, int units) -> Tensor");
  m.def(
      "channel_quadratic(Tensor[] weights, Tensor[] grams, Tensor[] units, float[] scales, int "
      "count) -> Tensor");
  m.def(
      "eliminate_channels(Tensor[] weights, Tensor[] grams, Tensor[] units, float[] scales, Tensor "
      "base, Tensor fixed, int least, bool refits=True) -> (Tensor order, Tensor error)");
  m.def(
      "channel_errors(Tensor[] weights, Tensor[] grams, Tensor[] units, float[] scales, Tensor "
      "base, Tensor order, bool refits=True) -> Tensor");
  m.def(
      "channel_lasso(Tensor quadratic, Tensor norm, Tensor fixed, int count) -> (Tensor "
      "coefficient, Tensor penalty)");
  m.def(
      "channel_lasso_order(Tensor quadratic, Tensor norm, Tensor fixed, int steps=200) -> Tensor");
  // The nearest fractions with a small odd denominator: no integer multiple of them is next to a
  // half.
  m.def("tie_free_multiplier(Tensor multiplier, float tolerance) -> Tensor");
  // integer_layers.h: exact accumulators of integer-only layers, int64.
  m.def(
      "integer_convolution(Tensor input, Tensor weight, Tensor? bias, int input_zero_point, Tensor "
      "weight_zero_point, int[] stride, int[] padding, int[] dilation, int groups=1, bool "
      "transposed=False, int[] output_padding=[]) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "integer_matmul(Tensor input, Tensor other, Tensor? bias, int input_zero_point, Tensor "
      "other_zero_point) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "accumulator_limits(Tensor weight, Tensor? bias, int input_min, int input_max) -> (Tensor "
      "min, Tensor max)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(aimet, CompositeImplicitAutograd, m) {
  m.impl("merge_batch_norm_statistics", TORCH_FN(merge_batch_norm_statistics));
  m.impl("fold_batch_norm", TORCH_FN(fold_batch_norm));
  m.impl("absorb_high_bias", TORCH_FN(absorb_high_bias));
  m.impl("correct_bias_analytically", TORCH_FN(correct_bias_analytically));
  m.impl("smoothing_scale", TORCH_FN(smoothing_scale));
  m.impl("accumulator_limits", TORCH_FN(accumulator_limits));
}

TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("equalize_cross_layers_", TORCH_FN(equalize_flat_lists_));
  m.impl("tie_free_multiplier", TORCH_FN(tie_free_multiplier));
  m.impl("clipped_normal_moments", TORCH_FN(clipped_normal_moments));
  m.impl("add_channel_sums_", TORCH_FN(add_channel_sums_));
}

}  // namespace aimet
