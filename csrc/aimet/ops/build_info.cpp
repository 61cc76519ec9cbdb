#include "aimet/ops/build_info.h"

#include "aimet/aimet.h"
#include "aimet/ops/kernel_choice.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <mutex>
#include <set>
#include <thread>

namespace aimet {
namespace {

// Threads that run a loop of ours now. Counted, since at::parallel_for falls back to one without a
// word where it was compiled without OpenMP.
std::size_t worker_count() {
  std::set<std::thread::id> workers;
  std::mutex mutex;
  at::parallel_for(0, at::get_num_threads(), 1, [&](std::int64_t, std::int64_t) {
    const std::lock_guard<std::mutex> lock(mutex);
    workers.insert(std::this_thread::get_id());
  });
  return workers.size();
}

}  // namespace

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
         cuda + ", \"threads\": " + std::to_string(worker_count()) + ", \"compiler\": \"" __VERSION__ "\", \"instruction_sets\": [" + instruction_sets +
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
