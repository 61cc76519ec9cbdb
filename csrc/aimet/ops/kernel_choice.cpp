#include "aimet/ops/kernel_choice.h"

#include <c10/util/Exception.h>

#include <cstdlib>

namespace aimet::ops {

const cpu::KernelTable& kernels() {
  static const cpu::KernelTable* const table = [] {
    const char* request = std::getenv("AIMET_CPU_CAPABILITY");
    cpu::Capability capability{};
    TORCH_CHECK_VALUE(
        cpu::lower_capability(request, &capability),
        "aimet: environment variable `AIMET_CPU_CAPABILITY` must be baseline, avx2 or avx512, got ",
        request, "; unset it to use what the processor has");
    return cpu::kernel_table(capability);
  }();
  return *table;
}

}  // namespace aimet::ops
