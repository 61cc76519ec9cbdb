// The reduction behind min_max on the CPU, for operators that look for limits in passing.
#pragma once

#include "aimet/ops/layout.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <tuple>

namespace aimet::ops {

class LimitsReduction {
 public:
  // `dense`: a dense tensor, which must stay; `layout`: of the parameters that its elements share.
  LimitsReduction(const at::Tensor& dense, const ChannelLayout& layout);

  const cpu::Reduction& reduction() const { return arguments_.reduction; }
  // For a kernel that does the work of run() along with its own.
  const cpu::MinMaxArguments& arguments() const { return arguments_; }
  // Tasks of reduction(), each once, in any order, from any thread.
  void run(std::int64_t begin, std::int64_t end) const;
  // After all tasks: min and max in `shape`, that of the parameters.
  std::tuple<at::Tensor, at::Tensor> result(at::IntArrayRef shape) const;

 private:
  const ChannelLayout& layout_;
  cpu::ElementType type_;
  at::Tensor partial_low_;
  at::Tensor partial_high_;
  cpu::MinMaxArguments arguments_;
};

}  // namespace aimet::ops
