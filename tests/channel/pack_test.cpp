#include "penstock/channel/pack.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

namespace penstock {
namespace {

class Pack : public testing::TestWithParam<Simd> {
 protected:
  void SetUp() override {
    if (GetParam() > widest_simd()) GTEST_SKIP() << "this CPU has no such vectors";
    use_simd(GetParam());
  }
  void TearDown() override { use_simd(widest_simd()); }
};

TEST_P(Pack, records_of_any_size_arrive_whole_and_nothing_else_is_touched) {
  constexpr std::size_t kCount = 5;
  constexpr std::byte kUntouched{0xEE};
  for (std::size_t each = 0; each <= 300; ++each) {
    const std::size_t stride = each + 19;
    // Of exactly the size, so that a sanitizer sees reads beyond it.
    std::vector<std::byte> from(kCount * each);
    for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i * 7 + i / 251);
    std::vector<std::byte> to(kCount * stride, kUntouched);
    spread(to.data(), stride, from.data(), each, kCount);
    for (std::size_t record = 0; record < kCount; ++record) {
      const auto* got = to.data() + record * stride;
      ASSERT_TRUE(each == 0 || std::memcmp(got, from.data() + record * each, each) == 0) << each;
      for (std::size_t i = each; i < stride; ++i) ASSERT_EQ(got[i], kUntouched) << each;
    }
  }
}

std::string name_of(const testing::TestParamInfo<Simd>& width) {
  const std::array<const char*, 4> names{"off", "bits128", "bits256", "bits512"};
  return names[static_cast<std::size_t>(width.param)];
}

INSTANTIATE_TEST_SUITE_P(Widths, Pack,
                         testing::Values(Simd::off, Simd::bits128, Simd::bits256, Simd::bits512),
                         name_of);

}  // namespace
}  // namespace penstock
