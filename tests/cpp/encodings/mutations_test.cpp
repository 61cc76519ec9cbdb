// Thousands of mutations of valid files of every version end in a typed error with file, place and
// reason, or in a document that can be written and read again; in bounded memory, and under a
// sanitizer without undefined behaviour.

#include "mutations.h"

#include "samples.h"
#include <malloc.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <new>
#include <string>

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kCountsMemory = false;  // a sanitizer has an allocator of its own
#else
constexpr bool kCountsMemory = true;
#endif

namespace {

std::atomic<size_t> live_bytes = 0;
std::atomic<size_t> peak_bytes = 0;

}  // namespace

#if !defined(__SANITIZE_ADDRESS__)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"  // GCC sees the two inlined, and one each
void* operator new(size_t size) {
  void* memory = std::malloc(size);
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  live_bytes += malloc_usable_size(memory);
  if (live_bytes > peak_bytes) {
    peak_bytes = live_bytes.load();
  }
  return memory;
}
void operator delete(void* memory) noexcept {
  live_bytes -= memory == nullptr ? 0 : malloc_usable_size(memory);
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept {
  operator delete(memory);
}
#endif

namespace aimet::encodings {
namespace {

using testing::Mutation;
using testing::Mutator;

// Peak of what `action` allocates.
template <typename Action>
size_t peak_of(const Action& action) {
  const size_t before = live_bytes;
  peak_bytes = before;
  action();
  return peak_bytes - before;
}

void expect_survival(const std::string& text, size_t* rejected) {
  try {
    const EncodingsDocument document = parse(text, "mutated.encodings");
    EXPECT_EQ(from_neutral_json(to_neutral_json(document)), document);
    try {
      EXPECT_EQ(parse(serialize(document, document.version), "again"), document);
    } catch (const UnsupportedError&) {
      // Read, but not written: versions 0.4.0 and 0.5.0, modules in a file of version 1.0.0.
    }
    check(document);
    EXPECT_TRUE(diff(document, document).empty());
  } catch (const EncodingsError& error) {
    ++*rejected;
    EXPECT_EQ(error.source(), "mutated.encodings");
    EXPECT_FALSE(error.location().empty()) << error.what();
    EXPECT_FALSE(error.reason().empty());
    EXPECT_LT(error.reason().size(), 600U) << error.what();
  }
}

TEST(Mutations, EndInATypedErrorOrAWholeDocument) {
  constexpr size_t kRounds = 11000;
  constexpr auto kKinds = static_cast<size_t>(Mutation::kCount);
  Mutator mutator(20261123);
  std::array<size_t, kKinds> rejected{};
  for (size_t round = 0; round < kRounds; ++round) {
    const std::string& file = testing::kAllFiles[mutator.below(testing::kAllFiles.size())];
    const size_t kind = round % kKinds;
    std::string text = mutator.apply(file, static_cast<Mutation>(kind));
    if (mutator.below(8) == 0 && !text.empty()) {
      text = mutator.edit_bytes(text);
    }
    SCOPED_TRACE(text);
    const size_t peak = peak_of([&] { expect_survival(text, &rejected[kind]); });
    if (kCountsMemory) {
      EXPECT_LT(peak, 100 * text.size() + 100000);
    }
    if (::testing::Test::HasFailure()) {
      return;  // one counterexample says enough
    }
  }
  for (size_t kind = 0; kind < kKinds; ++kind) {
    EXPECT_GT(rejected[kind], kRounds / kKinds / 4) << "mutation " << kind;
  }
}

TEST(Mutations, EveryTruncationOfEveryVersionIsRejected) {
  for (const std::string& file : testing::kAllFiles) {
    for (size_t size = 0; size < file.size(); ++size) {
      EXPECT_THROW(parse(file.substr(0, size), "cut"), FormatError) << size;
    }
  }
}

// Text that takes many times its size: lists of empty lists, of one-letter objects, of numbers.
TEST(Mutations, MemoryIsBounded) {
  Limits limits;
  limits.max_memory = 1 << 20;
  for (const char* element : {"[],", "{},", "1,", "[0],", "{\"a\":1},", "\"\","}) {
    std::string text = "{\"version\": [";
    for (int count = 0; count < 200000; ++count) {
      text += element;
    }
    text += "0]}";
    std::string message;
    const size_t peak = peak_of([&] {
      try {
        parse(text, "large", limits);
      } catch (const FormatError& error) {
        message = error.what();
      }
    });
    EXPECT_EQ(message.find("large: $.version"), 0U) << element << message;
    EXPECT_NE(message.find(": its values take more than the limit of 1048576 bytes"),
              std::string::npos)
        << element << message;
    if (kCountsMemory) {
      EXPECT_LT(peak, size_t{1} << 20) << element;
    }
  }
}

// A file says how many blocks it has by listing them: a claim alone takes no memory.
TEST(Mutations, ClaimsTakeNoMemory) {
  const std::string text = R"({"version": "2.0.0", "encodings": [{"name": "w",
      "output_dtype": "int4", "y_scale": [[1.0]], "axis": 1, "block_size": 4294967295}]})";
  const size_t peak = peak_of([&] {
    const EncodingsDocument document = parse(text, "claim");
    ModelFacts model;
    model["w"].shape = {int64_t{1} << 40, int64_t{1} << 40};
    model["w"].has_shape = true;
    EXPECT_EQ(check(document, &model).size(), 1U);
  });
  if (kCountsMemory) {
    EXPECT_LT(peak, 100000U);
  }
}

}  // namespace
}  // namespace aimet::encodings
