#include "aimet/ops/build_info.h"

#include "aimet/aimet.h"
#include "aimet/ops/kernel_choice.h"

#include <torch/library.h>

namespace aimet {

std::string build_info() {
  std::string instruction_sets;
  for (int level = 0; level < cpu::kCapabilityCount; ++level) {
    const cpu::KernelTable* table = cpu::kernel_table(static_cast<cpu::Capability>(level));
    if (table == nullptr) continue;
    if (!instruction_sets.empty()) instruction_sets += ", ";
    instruction_sets += '"' + std::string(table->name) + '"';
  }
#if defined(AIMET_WITH_CUDA)
  const std::string cuda = "true";
#else
  const std::string cuda = "false";
#endif
  return "{\"version\": \"" AIMET_VERSION "\", \"torch_version\": \"" AIMET_TORCH_VERSION
         "\", \"cuda\": " +
         cuda + ", \"compiler\": \"" __VERSION__ "\", \"instruction_sets\": [" + instruction_sets +
         "]}";
}

std::string cpu_capability() {
  return ops::kernels().name;
}

void register_operators() {}

}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CatchAll, m) {
  m.impl("build_info", &aimet::build_info);
  m.impl("cpu_capability", &aimet::cpu_capability);
}
