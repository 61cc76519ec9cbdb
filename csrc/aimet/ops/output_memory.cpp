#include "aimet/ops/output_memory.h"

#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

#include <array>
#include <atomic>
#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

// The sanitizer cannot see where a block ends that is not malloc's.
#if defined(__linux__) && defined(MADV_HUGEPAGE) && defined(MADV_FREE) && \
    !defined(__SANITIZE_ADDRESS__)
#define AIMET_OWN_BLOCKS 1
#endif

namespace aimet::ops {
namespace {

#if defined(AIMET_OWN_BLOCKS)

constexpr std::size_t kPage = 4096;  // or a divisor of the system's
constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t cache_limit() {
  static const std::size_t limit = [] {
    constexpr std::size_t kDefault = 256;
    const char* request = std::getenv("AIMET_OUTPUT_CACHE_MB");
    if (request == nullptr || *request == '\0') return kDefault << 20;
    char* end = nullptr;
    const long long megabytes = std::strtoll(request, &end, 10);
    TORCH_CHECK_VALUE(*end == '\0' && megabytes >= 0 && megabytes < (1LL << 40),
                      "aimet: environment variable `AIMET_OUTPUT_CACHE_MB` must be a whole number "
                      "of megabytes from 0 (off) up, got ",
                      request, "; unset it for the default of ", kDefault);
    return static_cast<std::size_t>(megabytes) << 20;
  }();
  return limit;
}

// A mapping of ours; `data` is its first huge page.
struct Block {
  void* mapping;
  std::size_t mapping_size;
  void* data;
  std::size_t capacity;
};

void unmap(Block* block) {
  munmap(block->mapping, block->mapping_size);
  delete block;
}

// Null where the system refuses.
Block* map(std::size_t size) {
  const std::size_t mapping_size = size + kHugePage + kPage;
  void* mapping =
      mmap(nullptr, mapping_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  const auto address = reinterpret_cast<std::uintptr_t>(mapping);
  void* data = static_cast<char*>(mapping) + (kHugePage - address % kHugePage) % kHugePage;
  // Not beyond the end: a last huge page would occupy more than is needed. A refusal leaves small
  // pages, which are right too.
  madvise(data, (size + kPage - 1) / kPage * kPage, MADV_HUGEPAGE);
  return new Block{mapping, mapping_size, data, size};
}

// Blocks that nobody uses. Without locks: a process may fork while another thread is in here, and
// its child must not wait for that thread.
class Cache {
 public:
  // A block of at least `size` bytes that is not much larger; null if there is none.
  Block* take(std::size_t size) {
    for (Slot& slot : slots_) {
      if (!fits(slot.capacity.load(std::memory_order_relaxed), size)) continue;
      Block* block = slot.block.exchange(nullptr, std::memory_order_acquire);
      if (block == nullptr) continue;
      kept_.fetch_sub(block->capacity);
      if (fits(block->capacity, size)) return block;
      put(block);  // another one came into the slot meanwhile
    }
    return nullptr;
  }

  void put(Block* block) {
    const std::size_t limit = cache_limit();
    if (block->capacity > limit) return unmap(block);
    for (std::size_t i = 0; i < kSlots && kept_.load() + block->capacity > limit; ++i) evict_next();
    for (Slot& slot : slots_) {
      Block* empty = nullptr;
      if (slot.block.load(std::memory_order_relaxed) != nullptr) continue;
      madvise(block->data, block->capacity, MADV_FREE);
      kept_.fetch_add(block->capacity);
      const std::size_t capacity = block->capacity;
      if (slot.block.compare_exchange_strong(empty, block, std::memory_order_release)) {
        slot.capacity.store(capacity, std::memory_order_relaxed);
        return;
      }
      kept_.fetch_sub(capacity);
    }
    unmap(block);
  }

 private:
  struct Slot {
    std::atomic<Block*> block{nullptr};
    std::atomic<std::size_t> capacity{0};  // a hint: of the block that was put here last
  };

  static bool fits(std::size_t capacity, std::size_t size) {
    return capacity >= size && capacity - size <= size / 4;
  }

  // In turn, so that nothing stays that nobody asks for.
  void evict_next() {
    Slot& slot = slots_[next_.fetch_add(1, std::memory_order_relaxed) % kSlots];
    Block* block = slot.block.exchange(nullptr, std::memory_order_acquire);
    if (block == nullptr) return;
    kept_.fetch_sub(block->capacity);
    unmap(block);
  }

  static constexpr std::size_t kSlots = 64;
  std::array<Slot, kSlots> slots_;
  std::atomic<std::size_t> kept_{0};  // bytes
  std::atomic<std::size_t> next_{0};
};

// Never destroyed: tensors may outlive every other object of the library.
Cache& cache() {
  static Cache* const instance = new Cache;
  return *instance;
}

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  c10::profiledCPUMemoryReporter().Delete(block->data);
  cache().put(block);
}

class OutputAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size) override {
    if (size < kLargeOutput || cache_limit() == 0) return c10::GetCPUAllocator()->allocate(size);
    Block* block = cache().take(size);
    if (block == nullptr) block = map(size);
    if (block == nullptr) return c10::GetCPUAllocator()->allocate(size);
    c10::profiledCPUMemoryReporter().New(block->data, size);
    return {block->data, block, &release, c10::Device(c10::DeviceType::CPU)};
  }

  void copy_data(void* target, const void* source, std::size_t size) const override {
    default_copy_data(target, source, size);
  }
};

c10::Allocator* output_allocator() {
  static OutputAllocator* const instance = new OutputAllocator;
  return instance;
}

#endif

}  // namespace

at::Tensor empty_output(const at::Tensor& like) {
#if defined(AIMET_OWN_BLOCKS)
  if (like.nbytes() >= kLargeOutput && cache_limit() != 0) {
    return at::detail::empty_strided_generic(like.sizes(), like.strides(), output_allocator(),
                                             c10::DispatchKeySet(c10::DispatchKey::CPU),
                                             like.scalar_type());
  }
#endif
  return at::detail::empty_strided_cpu(like.sizes(), like.strides(), like.scalar_type());
}

}  // namespace aimet::ops
