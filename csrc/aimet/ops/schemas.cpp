// The whole operator API on one page. `scale`, `offset`, `min`, `max` broadcast against `input`, or
// tile it with blocks of `block_size` (one entry per dimension of the parameter, aligned to the
// right; -1: the rest of the dimension). Contracts: the header of the same name beside this file.
// Formulas: docs/numerics.md.
#include <torch/library.h>

#include <string>

namespace {

// Masks are in memory order, so what a compiler hands over must have the strides it was traced
// with.
const std::vector<at::Tag> kTags = {at::Tag::pt2_compliant_tag, at::Tag::needs_exact_strides};

}  // namespace

TORCH_LIBRARY(aimet, m) {
  // --- affine.h: q = clamp(rne(input / scale) - offset, qmin, qmax), x = (q + offset) * scale ---
  m.def(
      "quantize(Tensor input, Tensor scale, Tensor offset, int qmin, int qmax, int[]? "
      "block_size=None) -> Tensor",
      kTags);
  m.def("dequantize(Tensor input, Tensor scale, Tensor offset, int[]? block_size=None) -> Tensor",
        kTags);
  m.def(
      "quantize_dequantize(Tensor input, Tensor scale, Tensor offset, int qmin, int qmax, int[]? "
      "block_size=None) -> Tensor",
      kTags);
  // The same and, packed into uint8, one bit an element in memory order: 1 = inside the grid.
  m.def(
      "_quantize_dequantize_mask(Tensor input, Tensor scale, Tensor offset, int qmin, int qmax, "
      "int[]? block_size=None) -> (Tensor output, Tensor mask)",
      kTags);
  m.def("_quantize_dequantize_mask_backward(Tensor grad, Tensor mask) -> Tensor", kTags);
  // Gradients of input, scale, offset; an empty tensor where output_mask is false.
  m.def(
      "_quantize_dequantize_backward(Tensor grad, Tensor input, Tensor scale, Tensor offset, int "
      "qmin, int qmax, int[]? block_size, bool[3] output_mask) -> (Tensor, Tensor, Tensor)",
      kTags);

  // quantize_dequantize and the limits of the finite inputs that share a scale, in one pass.
  m.def(
      "quantize_dequantize_min_max(Tensor input, Tensor scale, Tensor offset, int qmin, int qmax, "
      "int[]? block_size=None) -> (Tensor output, Tensor min, Tensor max)",
      kTags);

  // --- clamped_affine.h: quantize_dequantize(clamp(input, clamp_min, clamp_max)) ---
  m.def(
      "clamp_quantize_dequantize(Tensor input, float? clamp_min, float? clamp_max, Tensor scale, "
      "Tensor offset, int qmin, int qmax, int[]? block_size=None) -> Tensor",
      kTags);
  // 1 in the mask = strictly between the bounds and inside the grid; its backward is
  // _quantize_dequantize_mask_backward.
  m.def(
      "_clamp_quantize_dequantize_mask(Tensor input, float? clamp_min, float? clamp_max, Tensor "
      "scale, Tensor offset, int qmin, int qmax, int[]? block_size=None) -> (Tensor output, Tensor "
      "mask)",
      kTags);
  m.def(
      "_clamp_quantize_dequantize_backward(Tensor grad, Tensor input, float? clamp_min, float? "
      "clamp_max, Tensor scale, Tensor offset, int qmin, int qmax, int[]? block_size, bool[3] "
      "output_mask) -> (Tensor, Tensor, Tensor)",
      kTags);

  // --- float_format.h: round(input / scale) * scale, to a floating-point format ---
  m.def(
      "quantize_dequantize_float(Tensor input, Tensor scale, int exponent_bits, int mantissa_bits, "
      "bool finite=False, bool unsigned_zero=False, bool saturate=True, int[]? block_size=None) -> "
      "Tensor",
      kTags);
  // The same and the mask of what is not beyond the largest number; its backward is
  // _quantize_dequantize_mask_backward.
  m.def(
      "_quantize_dequantize_float_mask(Tensor input, Tensor scale, int exponent_bits, int "
      "mantissa_bits, bool finite, bool unsigned_zero, bool saturate, int[]? block_size=None) -> "
      "(Tensor output, Tensor mask)",
      kTags);
  // Gradients of input and scale; an empty tensor where output_mask is false.
  m.def(
      "_quantize_dequantize_float_backward(Tensor grad, Tensor input, Tensor scale, int "
      "exponent_bits, int mantissa_bits, bool finite, bool unsigned_zero, bool saturate, int[]? "
      "block_size, bool[2] output_mask) -> (Tensor, Tensor)",
      kTags);

  // --- microscaling.h: blocks along `axis` with scales that follow from their values: powers of
  // two (MX) or, with `tensor_scale`, float8e4m3fn (NVFP4) ---
  m.def(
      "quantize_dequantize_microscaling(Tensor input, str element, int axis=-1, int block_size=32, "
      "Tensor? tensor_scale=None) -> (Tensor output, Tensor scale)",
      kTags);
  m.def(
      "_quantize_dequantize_microscaling_mask(Tensor input, str element, int axis, int block_size, "
      "Tensor? tensor_scale=None) -> (Tensor output, Tensor scale, Tensor mask)",
      kTags);

  // --- min_max.h: limits of the finite values, reduced to `shape` ---
  m.def("min_max(Tensor input, SymInt[] shape, int[]? block_size=None) -> (Tensor min, Tensor max)",
        kTags);

  // --- encoding.h: limits -> range of the grid -> scale and offset ---
  m.def(
      "range_from_min_max(Tensor min, Tensor max, int qmin, int qmax, bool symmetric, bool "
      "strict=False) -> (Tensor range_min, Tensor range_max)",
      kTags);
  m.def(
      "encoding_from_range(Tensor min, Tensor max, int qmin, int qmax, bool symmetric) -> (Tensor "
      "scale, Tensor offset)",
      kTags);

  // --- grouped_scale.h: scales of blocks as whole numbers times a unit of their group (LPBQ) ---
  m.def("grouped_scale(Tensor scale, int[] group_size, int steps) -> Tensor", kTags);

  // --- histogram.h: counts of equal bins over [min, max] ---
  m.def(
      "update_histogram_(Tensor(a!) histogram, Tensor input, Tensor min, Tensor max, int[]? "
      "block_size=None) -> ()",
      kTags);
  m.def(
      "rebin_histogram(Tensor histogram, Tensor old_min, Tensor old_max, Tensor new_min, Tensor "
      "new_max) -> Tensor",
      kTags);

  // --- range_search.h: histogram -> range of the grid ---
  m.def(
      "range_from_percentile(Tensor histogram, Tensor min, Tensor max, float percentile, int qmin, "
      "int qmax, bool symmetric) -> (Tensor range_min, Tensor range_max)",
      kTags);
  m.def(
      "range_from_sqnr(Tensor histogram, Tensor min, Tensor max, int qmin, int qmax, bool "
      "symmetric, int asymmetric_delta_candidates=17, int symmetric_delta_candidates=101, int "
      "offset_candidates=21, float gamma=3.0) -> (Tensor range_min, Tensor range_max)",
      kTags);
  m.def(
      "range_from_mse(Tensor histogram, Tensor min, Tensor max, int qmin, int qmax, bool "
      "symmetric) -> (Tensor range_min, Tensor range_max)",
      kTags);
  m.def(
      "range_from_entropy(Tensor histogram, Tensor min, Tensor max, int qmin, int qmax, bool "
      "symmetric) -> (Tensor range_min, Tensor range_max)",
      kTags);

  // --- simulation.h: what a simulated layer does with a tensor that nobody else holds ---
  m.def(
      "quantize_dequantize_by_range_(Tensor(a!) input, Tensor min, Tensor max, int qmin, int qmax, "
      "bool symmetric, float? clamp_min=None, float? clamp_max=None) -> ()",
      kTags);
  m.def(
      "quantize_dequantize_(Tensor(a!) input, Tensor scale, Tensor offset, int qmin, int qmax, "
      "float? clamp_min=None, float? clamp_max=None) -> ()",
      kTags);
  m.def("fingerprint(Tensor[] tensors) -> int");

  // --- adaround.h: soft rounding of weights, for a training loop of one's own ---
  m.def("adaround_alpha(Tensor weight, Tensor scale) -> Tensor", kTags);
  m.def(
      "adaround_quantize_dequantize(Tensor weight, Tensor alpha, Tensor scale, Tensor offset, int "
      "qmin, int qmax, bool hard=False) -> Tensor",
      kTags);
  m.def(
      "_adaround_quantize_dequantize_backward(Tensor grad, Tensor weight, Tensor alpha, Tensor "
      "scale, Tensor offset, int qmin, int qmax) -> Tensor",
      kTags);
  m.def("adaround_regularizer(Tensor alpha, float beta) -> Tensor", kTags);
  m.def("_adaround_regularizer_backward(Tensor grad, Tensor alpha, float beta) -> Tensor", kTags);
  m.def(
      "adaround_beta(int iteration, int iterations, float first=20.0, float last=2.0, float "
      "warm_start=0.2) -> float",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "adaround_step_(Tensor(a!) alpha, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor grad, "
      "Tensor weight, Tensor scale, Tensor offset, int qmin, int qmax, float beta, float "
      "reg_param=0.01, float learning_rate=0.001, int step=1) -> ()",
      kTags);

  // --- random_choice.h: either tensor at each position, as seed and position say ---
  m.def("choose_randomly(Tensor first, Tensor second, float probability, int seed) -> Tensor",
        kTags);
  m.def(
      "_choose_randomly_backward(Tensor grad, float probability, int seed) -> (Tensor first, "
      "Tensor "
      "second)",
      kTags);

  // --- value_range.h: values -> range of the grid ---
  m.def(
      "range_from_values(Tensor input, SymInt[] shape, int qmin, int qmax, bool symmetric, int[]? "
      "block_size=None) -> (Tensor range_min, Tensor range_max)",
      kTags);

  // --- quantization_error.h: what each of several grids does to a tensor and to a loss ---
  m.def(
      "quantization_errors(Tensor input, Tensor? grad, Tensor[] scale, Tensor[] offset, int[] "
      "qmin, int[] qmax, bool by_sample=False, int[]? block_size=None) -> (Tensor errors, Tensor "
      "power)",
      kTags);

  // --- requantization.h: integer arithmetic behind the accumulators of a target ---
  m.def("requantization_multiplier(Tensor ratio) -> (Tensor multiplier, Tensor shift)", kTags);
  m.def(
      "requantize(Tensor accumulator, Tensor multiplier, Tensor shift, int zero_point, int qmin, "
      "int qmax, str rounding='gemmlowp') -> Tensor",
      kTags);
  m.def(
      "integer_add(Tensor input, Tensor other, float input_scale, int input_zero_point, float "
      "other_scale, int other_zero_point, float output_scale, int output_zero_point, int qmin, int "
      "qmax, str rounding='gemmlowp', int left_shift=20) -> Tensor",
      kTags);

  // --- build_info.h ---
  m.def("build_info() -> str", {at::Tag::pt2_compliant_tag});
  m.def("cpu_capability() -> str", {at::Tag::pt2_compliant_tag});

  // --- encodings/encodings.h: encodings files as JSON text ---
  m.def("read_encodings(str path) -> str", {at::Tag::pt2_compliant_tag});
  m.def("parse_encodings(str text, str source) -> str", {at::Tag::pt2_compliant_tag});
  m.def("write_encodings(str path, str document, str version) -> ()", {at::Tag::pt2_compliant_tag});
  m.def("check_encodings(str document, str model) -> str", {at::Tag::pt2_compliant_tag});
  m.def("diff_encodings(str left, str right, float tolerance) -> str",
        {at::Tag::pt2_compliant_tag});
  m.def("convert_encodings(str document, str version, str options) -> str",
        {at::Tag::pt2_compliant_tag});
}
