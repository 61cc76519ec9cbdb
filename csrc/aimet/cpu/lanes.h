// The lanes of sums within a chunk (core/geometry.h), under the names that the kernels use.
#pragma once

#include "aimet/core/geometry.h"

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

using core::add_lanes;
using core::kLanes;

}  // namespace
}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE
