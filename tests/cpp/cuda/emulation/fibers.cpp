// One warp at a time, its threads as fibers (ucontext).
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "cuda_runtime.h"

dim3 threadIdx;
dim3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace cuda_emulation {
namespace {

constexpr std::size_t kStackBytes = 64 * 1024;

enum class State { kRunning, kWaiting, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStackBytes);
  State state = State::kDone;
  unsigned shuffles = 0;
};

ucontext_t scheduler;
std::array<Fiber, kLaneCount> fibers;
// Two sets: a lane may hand in its next value before another has read the last one.
std::array<std::array<std::uint64_t, kLaneCount>, 2> handed_in;
const std::function<void()>* running_kernel = nullptr;

unsigned lane() { return threadIdx.x % kLaneCount; }

void fiber_main() {
  (*running_kernel)();
  fibers[lane()].state = State::kDone;
}

void prepare(Fiber& fiber) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = &scheduler;
  makecontext(&fiber.context, fiber_main, 0);
  fiber.state = State::kRunning;
  fiber.shuffles = 0;
}

void run_warp(unsigned first_thread) {
  for (Fiber& fiber : fibers) prepare(fiber);
  for (unsigned done = 0; done < kLaneCount;) {
    done = 0;
    unsigned waiting = 0;
    for (unsigned i = 0; i < kLaneCount; ++i) {
      if (fibers[i].state == State::kDone) {
        ++done;
        continue;
      }
      threadIdx = dim3(first_thread + i);
      swapcontext(&scheduler, &fibers[i].context);
      done += fibers[i].state == State::kDone ? 1 : 0;
      waiting += fibers[i].state == State::kWaiting ? 1 : 0;
    }
    if (waiting != 0 && done != 0) {
      std::fprintf(stderr, "CUDA emulation: %u threads of a warp shuffle, %u have returned\n", waiting, done);
      std::abort();
    }
  }
}

}  // namespace

std::uint64_t exchange(std::uint64_t bits, unsigned source) {
  Fiber& fiber = fibers[lane()];
  std::array<std::uint64_t, kLaneCount>& values = handed_in[fiber.shuffles++ % 2];
  values[lane()] = bits;
  fiber.state = State::kWaiting;
  swapcontext(&fiber.context, &scheduler);
  fiber.state = State::kRunning;
  return values[source];
}

void run_grid(const cudaLaunchConfig_t& config, const std::function<void()>& kernel) {
  running_kernel = &kernel;
  blockDim = config.blockDim;
  gridDim = dim3(std::min(config.gridDim.x, kMaxBlocks));
  for (unsigned block = 0; block < gridDim.x; ++block) {
    blockIdx = dim3(block);
    for (unsigned thread = 0; thread < blockDim.x; thread += kLaneCount) run_warp(thread);
  }
  running_kernel = nullptr;
}

}  // namespace cuda_emulation
