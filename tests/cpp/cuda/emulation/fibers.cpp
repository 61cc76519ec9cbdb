// One block at a time, its threads as fibers (ucontext).
#include "cuda_runtime.h"
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>

dim3 threadIdx;
dim3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace cuda_emulation {
namespace {

constexpr std::size_t kStackBytes = 64 * 1024;
constexpr unsigned kMaxThreads = 1024;

enum class State { kRunning, kShuffling, kAtBarrier, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state = State::kDone;
  unsigned shuffles = 0;
  // Two: a lane may hand in its next value before another has read the last one.
  std::array<std::uint64_t, 2> handed_in{};
};

ucontext_t scheduler;
std::array<Fiber, kMaxThreads> fibers;
const std::function<void()>* running_kernel = nullptr;

void fiber_main() {
  (*running_kernel)();
  fibers[threadIdx.x].state = State::kDone;
}

void prepare(Fiber& fiber) {
  if (fiber.stack == nullptr) fiber.stack = std::make_unique<char[]>(kStackBytes);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = &scheduler;
  makecontext(&fiber.context, fiber_main, 0);
  fiber.state = State::kRunning;
  fiber.shuffles = 0;
}

void resume(unsigned thread) {
  threadIdx = dim3(thread);
  swapcontext(&scheduler, &fibers[thread].context);
}

// Returns to the scheduler until it sets the state back to kRunning and resumes.
void wait_as(State state) {
  Fiber& fiber = fibers[threadIdx.x];
  fiber.state = state;
  swapcontext(&fiber.context, &scheduler);
}

unsigned count_in(unsigned first, unsigned size, State state) {
  unsigned count = 0;
  for (unsigned i = first; i < first + size; ++i) count += fibers[i].state == state ? 1 : 0;
  return count;
}

void release(unsigned first, unsigned size, State waiting) {
  for (unsigned i = first; i < first + size; ++i) {
    if (fibers[i].state == waiting) fibers[i].state = State::kRunning;
  }
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "CUDA emulation: %s is not reached by every thread\n", what);
  std::abort();
}

// Runs a warp until all of its threads have returned or wait at a barrier of the block.
void run_warp(unsigned first) {
  while (count_in(first, kLaneCount, State::kRunning) != 0) {
    for (unsigned i = first; i < first + kLaneCount; ++i) {
      if (fibers[i].state == State::kRunning) resume(i);
    }
    const unsigned shuffling = count_in(first, kLaneCount, State::kShuffling);
    if (shuffling != 0 && shuffling != kLaneCount) fail("a shuffle");
    release(first, kLaneCount, State::kShuffling);
  }
}

void run_block() {
  for (unsigned i = 0; i < blockDim.x; ++i) prepare(fibers[i]);
  do {
    for (unsigned first = 0; first < blockDim.x; first += kLaneCount) run_warp(first);
    const unsigned waiting = count_in(0, blockDim.x, State::kAtBarrier);
    if (waiting != 0 && waiting != blockDim.x) fail("a barrier");
    release(0, blockDim.x, State::kAtBarrier);
  } while (count_in(0, blockDim.x, State::kRunning) != 0);
}

}  // namespace

std::uint64_t exchange(std::uint64_t bits, unsigned source_lane) {
  const unsigned thread = threadIdx.x;
  const unsigned set = fibers[thread].shuffles++ % 2;
  fibers[thread].handed_in[set] = bits;
  wait_as(State::kShuffling);
  return fibers[thread - thread % kLaneCount + source_lane].handed_in[set];
}

void wait_at_barrier() {
  wait_as(State::kAtBarrier);
}

void run_grid(const cudaLaunchConfig_t& config, const std::function<void()>& kernel) {
  running_kernel = &kernel;
  blockDim = config.blockDim;
  gridDim = dim3(std::min(config.gridDim.x, kMaxBlocks));
  for (unsigned block = 0; block < gridDim.x; ++block) {
    blockIdx = dim3(block);
    run_block();
  }
  running_kernel = nullptr;
}

}  // namespace cuda_emulation
