// The order of a weight's elements in which a low-rank factorization is one of a matrix.
#pragma once

#include "aimet/algorithms/low_rank.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace aimet {

// Shapes of one group and of the kernels of both layers.
struct LowRankForm {
  Factorization kind;
  int64_t inputs, outputs;  // of the layer, in one group
  std::vector<int64_t> kernel_size;
  bool is_transposed;
  std::vector<int64_t> first_kernel, second_kernel;
  int64_t shared = 0;  // p
  int64_t slots = 0;   // s

  int64_t max_rank() const;
  // ValueError unless `rank` is within 1 and max_rank().
  void check_rank(const char* op, int64_t rank) const;

  // (groups, o, in, kernel elements) to (groups, o, s, p), and back.
  at::Tensor slotted(const at::Tensor& grouped) const;
  at::Tensor grouped(const at::Tensor& slotted) const;

  // first (groups, r, p) and second (groups, o, s, r) as torch.nn stores them.
  at::Tensor first_weight(const at::Tensor& first) const;
  at::Tensor second_weight(const at::Tensor& second) const;
};

// NotImplementedError: a spatial factorization of a kernel that does not have two dimensions.
LowRankForm low_rank_form(const char* op, Factorization factorization, int64_t inputs,
                          int64_t outputs, at::IntArrayRef kernel_size, bool is_transposed);

}  // namespace aimet
