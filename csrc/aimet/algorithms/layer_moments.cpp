#include "aimet/algorithms/layer_moments.h"

#include "aimet/algorithms/one_blas_thread.h"
#include "aimet/cpu/kernels.h"
#include "aimet/ops/kernel_choice.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <vector>

namespace aimet {
namespace {

constexpr const char* kOp = "accumulate_layer_moments_";
constexpr int64_t kPositions = 1024;             // of one product in float32
constexpr int64_t kTile = 256;                   // rows and columns of one task
constexpr int64_t kSmallInputs = 64;             // up to here the kernel of its own is faster
constexpr int64_t kLanes = 8;                    // partial sums where there are too few tiles
constexpr int64_t kUnfolded = int64_t{1} << 24;  // elements that are unfolded at a time

int64_t product(at::IntArrayRef sizes) {
  int64_t result = 1;
  for (const int64_t size : sizes) result *= size;
  return result;
}

// A zero between neighbours in each dimension: a transposed convolution is a convolution of that.
at::Tensor spread(const at::Tensor& input, const std::vector<int64_t>& stride) {
  if (std::all_of(stride.begin(), stride.end(), [](int64_t s) { return s == 1; })) return input;
  std::vector<int64_t> sizes = input.sizes().vec();
  for (size_t i = 0; i < stride.size(); ++i) sizes[i + 2] = (sizes[i + 2] - 1) * stride[i] + 1;
  at::Tensor result = at::zeros(sizes, input.options());
  at::Tensor target = result;
  for (size_t i = 0; i < stride.size(); ++i)
    target = target.slice(static_cast<int64_t>(i) + 2, 0, std::nullopt, stride[i]);
  target.copy_(input);
  return result;
}

void check_geometry(const LayerGeometry& g, const at::Tensor& input, at::IntArrayRef output_size) {
  const size_t dims = g.kernel_size.size();
  TORCH_CHECK_VALUE(g.stride.size() == dims && g.padding.size() == dims &&
                        g.dilation.size() == dims && output_size.size() == dims,
                    kOp,
                    ": `kernel_size`, `stride`, `padding` and `dilation` must have one entry "
                    "for each dimension of the output's size, got ",
                    dims, ", ", g.stride.size(), ", ", g.padding.size(), ", ", g.dilation.size(),
                    " for ", output_size.size());
  TORCH_CHECK_VALUE(dims == 0 || input.dim() == static_cast<int64_t>(dims) + 2, kOp,
                    ": `input` must be (N, channels, *size) with ", dims,
                    " dimensions of size, got shape ", input.sizes());
  const int64_t channels = dims == 0 ? input.size(-1) : input.size(1);
  TORCH_CHECK_VALUE(g.groups >= 1 && channels % g.groups == 0, kOp,
                    ": `groups` must be positive and divide the channels of `input`, got ",
                    g.groups, " for ", channels);
}

// `tensor` (N, C, *size) or (*, C) as (groups, C / groups, positions).
at::Tensor by_group(const at::Tensor& tensor, int64_t groups, bool is_linear) {
  if (is_linear) {
    const int64_t channels = tensor.size(-1);
    return tensor.reshape({-1, channels}).t().unsqueeze(0);
  }
  const int64_t channels = tensor.size(1);
  return tensor.flatten(2).transpose(0, 1).reshape({groups, channels / groups, -1});
}

struct Task {
  int64_t group, lane, row, column;  // tile; row counts outputs behind the inputs
};

// gram and cross of wide layers, tile by tile.
void add_products(LayerMoments& moments, const at::Tensor& input, const at::Tensor& output) {
  const int64_t groups = input.size(0), d = input.size(1), o = output.size(1);
  const int64_t length = input.size(2);
  const int64_t input_tiles = (d + kTile - 1) / kTile;
  const int64_t output_tiles = (o + kTile - 1) / kTile;
  const int64_t tiles = groups * (input_tiles * (input_tiles + 1) / 2 + input_tiles * output_tiles);
  const int64_t lanes = tiles >= kLanes ? 1 : kLanes;
  at::Tensor partial_gram = moments.gram.unsqueeze(0);
  at::Tensor partial_cross = moments.cross.unsqueeze(0);
  if (lanes > 1) {
    partial_gram = at::zeros({lanes, groups, d, d}, moments.gram.options());
    partial_cross = at::zeros({lanes, groups, o, d}, moments.gram.options());
  }
  std::vector<Task> tasks;
  for (int64_t group = 0; group < groups; ++group) {
    for (int64_t lane = 0; lane < lanes; ++lane) {
      for (int64_t column = 0; column < input_tiles; ++column) {
        for (int64_t row = column; row < input_tiles + output_tiles; ++row)
          tasks.push_back({group, lane, row, column});
      }
    }
  }
  const int64_t count = static_cast<int64_t>(tasks.size());
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const OneBlasThread one_thread;
    for (int64_t i = begin; i < end; ++i) {
      const Task& task = tasks[i];
      const bool is_cross = task.row >= input_tiles;
      const int64_t first = (is_cross ? task.row - input_tiles : task.row) * kTile;
      const at::Tensor left =
          (is_cross ? output : input).select(0, task.group).slice(0, first, first + kTile);
      const at::Tensor right =
          input.select(0, task.group).slice(0, task.column * kTile, (task.column + 1) * kTile);
      at::Tensor sum = at::zeros({left.size(0), right.size(0)}, moments.gram.options());
      at::Tensor part = at::empty(sum.sizes(), sum.options().dtype(at::kFloat));
      for (int64_t start = task.lane * kPositions; start < length; start += lanes * kPositions) {
        at::mm_out(part, left.slice(1, start, start + kPositions),
                   right.slice(1, start, start + kPositions).t());
        const float* source = part.const_data_ptr<float>();
        double* target = sum.mutable_data_ptr<double>();
        for (int64_t k = 0; k < sum.numel(); ++k) target[k] += static_cast<double>(source[k]);
      }
      at::Tensor whole = (is_cross ? partial_cross : partial_gram)[task.lane][task.group];
      const int64_t column = task.column * kTile;
      at::Tensor tile = whole.slice(0, first, first + kTile).slice(1, column, column + kTile);
      if (is_cross) {
        tile.add_(sum);
      } else if (task.row == task.column) {
        tile.add_(sum + sum.t(), 0.5);  // symmetric to the last bit
      } else {
        tile.add_(sum);
        whole.slice(0, column, column + kTile).slice(1, first, first + kTile).add_(sum.t());
      }
    }
  });
  if (lanes > 1) {
    for (int64_t lane = 0; lane < lanes; ++lane) {
      moments.gram.add_(partial_gram[lane]);
      moments.cross.add_(partial_cross[lane]);
    }
  }
  moments.input_sum.add_(input.sum(2, false, at::kDouble));
  moments.output_sum.add_(output.sum(2, false, at::kDouble));
}

// The same for layers with few inputs to an output, one task a group.
void add_small(LayerMoments& moments, const at::Tensor& input, const at::Tensor& output,
               const at::Tensor& importance) {
  const int64_t d = input.size(1), o = output.size(1), length = input.size(2);
  const at::Tensor x = input.contiguous(), y = output.contiguous();
  const at::Tensor w = importance.defined() ? importance.contiguous() : importance;
  at::parallel_for(0, input.size(0), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(w.defined() ? length : 0);
    for (int64_t group = begin; group < end; ++group) {
      const cpu::MomentsArguments arguments{
          x.const_data_ptr<float>() + group * d * length,
          y.const_data_ptr<float>() + group * o * length,
          w.defined() ? w.const_data_ptr<float>() + group * length : nullptr,
          moments.gram.mutable_data_ptr<double>() + group * d * d,
          moments.cross.mutable_data_ptr<double>() + group * o * d,
          moments.input_sum.mutable_data_ptr<double>() + group * d,
          moments.output_sum.mutable_data_ptr<double>() + group * o,
          moments.total.mutable_data_ptr<double>() + group,
          d,
          o,
          length,
          length,
          length};
      ops::kernels().add_moments(arguments, scratch.data());
    }
  });
}

void add_elsewhere(LayerMoments& moments, const at::Tensor& input, const at::Tensor& output,
                   const at::Tensor& importance) {
  const at::Tensor x = input.to(at::kDouble), y = output.to(at::kDouble);
  const at::Tensor weighted = importance.defined() ? x * importance.to(at::kDouble) : x;
  const at::Tensor weighted_y = importance.defined() ? y * importance.to(at::kDouble) : y;
  const auto add = [](at::Tensor& sum, const at::Tensor& value) { sum.add_(value.to(at::kCPU)); };
  add(moments.gram, at::matmul(weighted, x.transpose(1, 2)));
  add(moments.cross, at::matmul(y, weighted.transpose(1, 2)));
  add(moments.input_sum, weighted.sum(2));
  add(moments.output_sum, weighted_y.sum(2));
}

void check_sums(const LayerMoments& m, int64_t groups, int64_t d, int64_t o) {
  const auto check = [&](const char* name, const at::Tensor& tensor, at::IntArrayRef shape) {
    TORCH_CHECK_TYPE(tensor.scalar_type() == at::kDouble && tensor.is_cpu(), kOp, ": `", name,
                     "` must be float64 on the CPU, got ", tensor.scalar_type(), " on ",
                     tensor.device());
    TORCH_CHECK_VALUE(tensor.sizes() == shape && tensor.is_contiguous(), kOp, ": `", name,
                      "` must be contiguous with shape ", shape, ", got ", tensor.sizes());
  };
  check("gram", m.gram, {groups, d, d});
  check("cross", m.cross, {groups, o, d});
  check("input_sum", m.input_sum, {groups, d});
  check("output_sum", m.output_sum, {groups, o});
  check("total", m.total, {groups});
}

}  // namespace

at::Tensor unfold_layer_input(const at::Tensor& input, const LayerGeometry& geometry,
                              at::IntArrayRef output_size) {
  check_geometry(geometry, input, output_size);
  const size_t dims = geometry.kernel_size.size();
  if (dims == 0) return by_group(input, geometry.groups, true);
  const bool is_transposed = geometry.is_transposed;
  at::Tensor x = is_transposed ? spread(input, geometry.stride) : input;
  std::vector<int64_t> pads;  // from the last dimension to the first
  for (size_t i = dims; i-- > 0;) {
    const int64_t span = geometry.dilation[i] * (geometry.kernel_size[i] - 1);
    const int64_t step = is_transposed ? 1 : geometry.stride[i];
    const int64_t front = is_transposed ? span - geometry.padding[i] : geometry.padding[i];
    const int64_t needed = (output_size[i] - 1) * step + span + 1;
    pads.insert(pads.end(), {front, needed - front - x.size(static_cast<int64_t>(i) + 2)});
  }
  if (std::any_of(pads.begin(), pads.end(), [](int64_t p) { return p != 0; }))
    x = at::constant_pad_nd(x, pads);
  // (C, *kernel, N, *output) as a view, then as one block of memory.
  std::vector<int64_t> sizes = {x.size(1)}, strides = {x.stride(1)}, kernel_dims;
  for (size_t i = 0; i < dims; ++i) {
    sizes.push_back(geometry.kernel_size[i]);
    strides.push_back(x.stride(static_cast<int64_t>(i) + 2) * geometry.dilation[i]);
    kernel_dims.push_back(static_cast<int64_t>(i) + 1);
  }
  sizes.push_back(x.size(0));
  strides.push_back(x.stride(0));
  for (size_t i = 0; i < dims; ++i) {
    sizes.push_back(output_size[i]);
    strides.push_back(x.stride(static_cast<int64_t>(i) + 2) *
                      (is_transposed ? 1 : geometry.stride[i]));
  }
  at::Tensor windows = x.as_strided(sizes, strides, x.storage_offset());
  // The first element of the kernel reads the last of the window.
  if (is_transposed && product(geometry.kernel_size) > 1) windows = windows.flip(kernel_dims);
  const int64_t inputs = x.size(1) / geometry.groups * product(geometry.kernel_size);
  return windows.reshape({geometry.groups, inputs, x.size(0) * product(output_size)});
}

void accumulate_layer_moments_(LayerMoments& moments, const at::Tensor& input,
                               const at::Tensor& output, const LayerGeometry& geometry,
                               const std::optional<at::Tensor>& importance) {
  for (const auto& [name, tensor] : {std::pair{"input", input}, std::pair{"output", output}}) {
    TORCH_CHECK_TYPE(tensor.is_floating_point(), kOp, ": `", name,
                     "` must have a floating-point dtype, got ", tensor.scalar_type());
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  const bool is_linear = geometry.kernel_size.empty();
  const at::IntArrayRef output_size =
      is_linear ? at::IntArrayRef() : output.sizes().slice(std::min<int64_t>(2, output.dim()));
  check_geometry(geometry, input, output_size);
  const int64_t channels = is_linear ? input.size(-1) : input.size(1);
  const int64_t outputs = is_linear ? output.size(-1) : output.size(1);
  const int64_t groups = geometry.groups;
  const int64_t d = channels / groups * product(geometry.kernel_size);
  TORCH_CHECK_VALUE(
      outputs % groups == 0 && (is_linear ? input.numel() / channels == output.numel() / outputs
                                          : input.size(0) == output.size(0)),
      kOp, ": `output` of shape ", output.sizes(), " does not fit `input` of shape ", input.sizes(),
      " with ", groups, " groups");
  const int64_t o = outputs / groups;
  check_sums(moments, groups, d, o);
  TORCH_CHECK_VALUE(!importance || (importance->sizes() == output.sizes() && o == 1), kOp,
                    ": `importance` needs the shape of `output` and one output a group; got shape ",
                    importance ? importance->sizes() : at::IntArrayRef(), " and ", o,
                    " outputs a group");

  const at::Tensor x32 = input.to(at::kFloat), y32 = output.to(at::kFloat);
  const int64_t samples = is_linear ? 1 : input.size(0);
  const int64_t per_sample = std::max<int64_t>(1, groups * d * product(output_size));
  const int64_t chunk = std::max<int64_t>(1, kUnfolded / per_sample);
  for (int64_t start = 0; start < samples; start += chunk) {
    const auto part = [&](const at::Tensor& tensor) {
      return is_linear ? tensor : tensor.slice(0, start, start + chunk);
    };
    const at::Tensor x = unfold_layer_input(part(x32), geometry, output_size);
    const at::Tensor y = by_group(part(y32), groups, is_linear);
    at::Tensor w;
    if (importance) w = by_group(part(importance->to(at::kFloat)), groups, is_linear);
    if (w.defined() && !x.is_cpu()) moments.total.add_(w.sum({1, 2}).to(at::kCPU, at::kDouble));
    if (!w.defined()) moments.total.add_(static_cast<double>(x.size(2)));
    if (!x.is_cpu()) {
      add_elsewhere(moments, x, y, w);
    } else if (w.defined() || (d <= kSmallInputs && groups >= 2)) {
      add_small(moments, x, y, w);
    } else {
      add_products(moments, x, y);
    }
  }
}

}  // namespace aimet
