// The functions of one instruction set; compiled once for each.
#include "aimet/cpu/functions.h"
#include "aimet/cpu/kernels.h"

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {

#define AIMET_STRING_OF(name) #name
#define AIMET_STRING(name) AIMET_STRING_OF(name)

extern const KernelTable table;
const KernelTable table = {
    AIMET_STRING(AIMET_SIMD_NAMESPACE),
    affine,
    select_by_mask,
    affine_backward,
    float_format,
    float_format_backward,
    microscaling,
    affine_limits,
    min_max,
    quantization_errors,
    histogram,
    range_search,
    start_rows,
    improve_rows,
    solve_rows,
    search_scale,
    add_moments,
};

}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE
