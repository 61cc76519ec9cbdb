// Declarations of the kernels of one instruction set; KernelTable (kernels.h) has their contracts.
#pragma once

#include "aimet/cpu/elements.h"
#include "aimet/cpu/kernels.h"

#include <cstdint>

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {

void affine(ElementType, AffineMode, const AffineArguments&, std::int64_t begin, std::int64_t end);
void select_by_mask(int element_size, const void* grad, const std::uint8_t* mask, void* output,
                    std::int64_t begin, std::int64_t end);
void affine_backward(ElementType, const AffineBackwardArguments&, std::int64_t begin,
                     std::int64_t end);
void float_format(ElementType, const FloatFormatArguments&, std::int64_t begin, std::int64_t end);
void float_format_backward(ElementType, const FloatFormatBackwardArguments&, std::int64_t begin,
                           std::int64_t end);
void microscaling(ElementType, const MicroscalingArguments&, std::int64_t begin, std::int64_t end);
void affine_limits(ElementType, const AffineArguments&, const MinMaxArguments&, std::int64_t begin,
                   std::int64_t end);
void min_max(ElementType, const MinMaxArguments&, std::int64_t begin, std::int64_t end);
void quantization_errors(ElementType, const QuantizationErrorArguments&, std::int64_t begin,
                         std::int64_t end);
void histogram(ElementType, const HistogramArguments&, const Box&, std::int64_t* counts);
void range_search(const RangeSearchArguments&, double* scratch, std::int64_t begin,
                  std::int64_t end);
void start_rows(const RoundingArguments&, double* scratch, std::int64_t begin, std::int64_t end);
void improve_rows(const RoundingArguments&, double* scratch, std::int64_t begin, std::int64_t end);
void solve_rows(const double* factor, const double* transposed, std::int64_t size, double* rows,
                std::int64_t count);
void search_scale(const ScaleSearchArguments&);
void add_moments(const MomentsArguments&, float* scratch);

}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE
