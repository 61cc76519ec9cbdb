#include "aimet/cpu/capability.h"

#include <gtest/gtest.h>

namespace aimet::cpu {
namespace {

TEST(LowerCapability, KeepsTheBestByDefault) {
  Capability capability{};
  EXPECT_TRUE(lower_capability(nullptr, &capability));
  EXPECT_EQ(capability, supported_capability());
  EXPECT_TRUE(lower_capability("", &capability));
  EXPECT_EQ(capability, supported_capability());
}

TEST(LowerCapability, Lowers) {
  Capability capability{};
  EXPECT_TRUE(lower_capability("baseline", &capability));
  EXPECT_EQ(capability, Capability::kBaseline);
}

TEST(LowerCapability, NeverRaises) {
  Capability capability{};
  EXPECT_TRUE(lower_capability("avx512", &capability));
  EXPECT_LE(capability, supported_capability());
}

TEST(LowerCapability, RefusesUnknownNames) {
  Capability capability{};
  EXPECT_FALSE(lower_capability("sse9", &capability));
  EXPECT_FALSE(lower_capability("AVX2", &capability));
}

TEST(KernelTable, SaysWhatItIs) {
  for (const Capability capability :
       {Capability::kBaseline, Capability::kAvx2, Capability::kAvx512}) {
    const KernelTable* table = kernel_table(capability);
    if (table == nullptr) continue;
    EXPECT_STREQ(table->name, capability_name(capability));
  }
}

}  // namespace
}  // namespace aimet::cpu
