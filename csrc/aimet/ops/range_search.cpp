// The range searches on the four kinds of backend: each method fills in the arguments of one
// kernel.
#include "aimet/ops/range_search.h"

#include "aimet/ops/checks.h"
#include "aimet/ops/dispatch.h"
#include "aimet/ops/kernel_choice.h"
#include "aimet/ops/layout.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <vector>

namespace aimet {

using Pair = std::tuple<at::Tensor, at::Tensor>;

Pair range_from_percentile(const at::Tensor& histogram, const at::Tensor& min,
                           const at::Tensor& max, double percentile, std::int64_t qmin,
                           std::int64_t qmax, bool symmetric) {
  static const auto op =
      ops::find_operator<decltype(range_from_percentile)>("aimet::range_from_percentile");
  return op.call(histogram, min, max, percentile, qmin, qmax, symmetric);
}

Pair range_from_sqnr(const at::Tensor& histogram, const at::Tensor& min, const at::Tensor& max,
                     std::int64_t qmin, std::int64_t qmax, bool symmetric,
                     std::int64_t asymmetric_delta_candidates,
                     std::int64_t symmetric_delta_candidates, std::int64_t offset_candidates,
                     double gamma) {
  static const auto op = ops::find_operator<decltype(range_from_sqnr)>("aimet::range_from_sqnr");
  return op.call(histogram, min, max, qmin, qmax, symmetric, asymmetric_delta_candidates,
                 symmetric_delta_candidates, offset_candidates, gamma);
}

Pair range_from_mse(const at::Tensor& histogram, const at::Tensor& min, const at::Tensor& max,
                    std::int64_t qmin, std::int64_t qmax, bool symmetric) {
  static const auto op = ops::find_operator<decltype(range_from_mse)>("aimet::range_from_mse");
  return op.call(histogram, min, max, qmin, qmax, symmetric);
}

Pair range_from_entropy(const at::Tensor& histogram, const at::Tensor& min, const at::Tensor& max,
                        std::int64_t qmin, std::int64_t qmax, bool symmetric) {
  static const auto op =
      ops::find_operator<decltype(range_from_entropy)>("aimet::range_from_entropy");
  return op.call(histogram, min, max, qmin, qmax, symmetric);
}

namespace {

// What differs between the methods, beside the tensors.
struct Method {
  const char* op;
  cpu::RangeMethod method;
  std::int64_t qmin;
  std::int64_t qmax;
  bool is_symmetric;
  double percentile = 100;
  core::SqnrSearch sqnr{17, 101, 21, 3.0};
};

void check(const Method& m, const at::Tensor& histogram, const at::Tensor& min,
           const at::Tensor& max) {
  ops::check_histogram(m.op, histogram, min, max);
  ops::check_grid(m.op, m.qmin, m.qmax);
  TORCH_CHECK_VALUE(m.percentile >= 50 && m.percentile <= 100, m.op,
                    ": `percentile` must lie in [50, 100], got ", m.percentile);
  const auto check_count = [&](const char* argument, std::int64_t value, std::int64_t least) {
    TORCH_CHECK_VALUE(value >= least, m.op, ": `", argument, "` must be at least ", least, ", got ",
                      value);
  };
  check_count("asymmetric_delta_candidates", m.sqnr.asymmetric_deltas, 2);
  check_count("symmetric_delta_candidates", m.sqnr.symmetric_deltas, 2);
  check_count("offset_candidates", m.sqnr.offsets, 3);
  TORCH_CHECK_VALUE(m.sqnr.gamma > 0, m.op, ": `gamma` must be positive, got ", m.sqnr.gamma);
}

Pair search_meta(const Method& m, const at::Tensor& histogram, const at::Tensor& min,
                 const at::Tensor& max) {
  check(m, histogram, min, max);
  return {at::empty_like(min, min.options(), at::MemoryFormat::Contiguous),
          at::empty_like(min, min.options(), at::MemoryFormat::Contiguous)};
}

Pair search_cpu(const Method& m, const at::Tensor& histogram, const at::Tensor& min,
                const at::Tensor& max) {
  check(m, histogram, min, max);
  const at::Tensor counts = histogram.contiguous();
  const at::Tensor low = ops::contiguous_as(min, at::kFloat);
  const at::Tensor high = ops::contiguous_as(max, at::kFloat);
  at::Tensor range_min = at::empty_like(low);
  at::Tensor range_max = at::empty_like(low);
  const std::int64_t bin_count = histogram.size(-1);
  const cpu::RangeSearchArguments arguments{m.method,
                                            counts.const_data_ptr<std::int64_t>(),
                                            low.const_data_ptr<float>(),
                                            high.const_data_ptr<float>(),
                                            bin_count,
                                            m.qmin,
                                            m.qmax,
                                            m.is_symmetric,
                                            m.percentile,
                                            m.sqnr,
                                            range_min.mutable_data_ptr<float>(),
                                            range_max.mutable_data_ptr<float>()};
  const cpu::KernelTable& kernels = ops::kernels();
  at::parallel_for(0, low.numel(), 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> scratch(2 * bin_count);
    kernels.range_search(arguments, scratch.data(), begin, end);
  });
  return {range_min.to(min.scalar_type()), range_max.to(min.scalar_type())};
}

// Histograms are small: to the CPU and back.
Pair search_composite(const Method& m, const at::Tensor& histogram, const at::Tensor& min,
                      const at::Tensor& max) {
  auto [low, high] = search_cpu(m, histogram.cpu(), min.cpu(), max.cpu());
  return {low.to(min.device()), high.to(min.device())};
}

Pair search_autograd(const Method& m, const at::Tensor& histogram, const at::Tensor& min,
                     const at::Tensor& max) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  switch (m.method) {
    case cpu::RangeMethod::kPercentile:
      return range_from_percentile(histogram, min, max, m.percentile, m.qmin, m.qmax,
                                   m.is_symmetric);
    case cpu::RangeMethod::kSqnr:
      return range_from_sqnr(histogram, min, max, m.qmin, m.qmax, m.is_symmetric,
                             m.sqnr.asymmetric_deltas, m.sqnr.symmetric_deltas, m.sqnr.offsets,
                             m.sqnr.gamma);
    case cpu::RangeMethod::kMse:
      return range_from_mse(histogram, min, max, m.qmin, m.qmax, m.is_symmetric);
    case cpu::RangeMethod::kEntropy:
      return range_from_entropy(histogram, min, max, m.qmin, m.qmax, m.is_symmetric);
  }
  TORCH_INTERNAL_ASSERT(false, "search_autograd: unknown method");
}

using Search = Pair (*)(const Method&, const at::Tensor&, const at::Tensor&, const at::Tensor&);

// The operators' signatures for one backend's search.
template <Search search>
struct Backend {
  static Pair percentile(const at::Tensor& histogram, const at::Tensor& min, const at::Tensor& max,
                         double percentile, std::int64_t qmin, std::int64_t qmax, bool symmetric) {
    Method m{"range_from_percentile", cpu::RangeMethod::kPercentile, qmin, qmax, symmetric};
    m.percentile = percentile;
    return search(m, histogram, min, max);
  }
  static Pair sqnr(const at::Tensor& histogram, const at::Tensor& min, const at::Tensor& max,
                   std::int64_t qmin, std::int64_t qmax, bool symmetric,
                   std::int64_t asymmetric_deltas, std::int64_t symmetric_deltas,
                   std::int64_t offsets, double gamma) {
    Method m{"range_from_sqnr", cpu::RangeMethod::kSqnr, qmin, qmax, symmetric};
    m.sqnr = {asymmetric_deltas, symmetric_deltas, offsets, gamma};
    return search(m, histogram, min, max);
  }
  static Pair mse(const at::Tensor& histogram, const at::Tensor& min, const at::Tensor& max,
                  std::int64_t qmin, std::int64_t qmax, bool symmetric) {
    return search({"range_from_mse", cpu::RangeMethod::kMse, qmin, qmax, symmetric}, histogram, min,
                  max);
  }
  static Pair entropy(const at::Tensor& histogram, const at::Tensor& min, const at::Tensor& max,
                      std::int64_t qmin, std::int64_t qmax, bool symmetric) {
    return search({"range_from_entropy", cpu::RangeMethod::kEntropy, qmin, qmax, symmetric},
                  histogram, min, max);
  }

  static void add_to(torch::Library& m) {
    m.impl("range_from_percentile", &percentile);
    m.impl("range_from_sqnr", &sqnr);
    m.impl("range_from_mse", &mse);
    m.impl("range_from_entropy", &entropy);
  }
};

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Meta, m) {
  aimet::Backend<aimet::search_meta>::add_to(m);
}
TORCH_LIBRARY_IMPL(aimet, CPU, m) {
  aimet::Backend<aimet::search_cpu>::add_to(m);
}
TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  aimet::Backend<aimet::search_composite>::add_to(m);
}
TORCH_LIBRARY_IMPL(aimet, Autograd, m) {
  aimet::Backend<aimet::search_autograd>::add_to(m);
}
