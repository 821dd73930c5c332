#include "fathom/ops/sample/largest.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <vector>

namespace fathom::ops {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

Largest of(const std::vector<float>& z) {
  return largest_of(z.data(), static_cast<int64_t>(z.size()));
}

TEST(Largest, FindsTheFirstWhereverItStands) {
  std::mt19937 random(7);
  std::uniform_real_distribution<float> law(-5.0f, 5.0f);
  for (const size_t n : {1, 15, 16, 17, 511, 512, 513, 1300}) {
    std::vector<float> z(n);
    for (float& x : z) x = law(random);
    for (const size_t at : {size_t{0}, n / 2, n - 1}) {
      std::vector<float> with = z;
      with[at] = with[n - 1] = 6.0f;
      const Largest best = of(with);
      EXPECT_EQ(best.index, static_cast<int64_t>(at)) << n;
      EXPECT_EQ(best.value, 6.0f);
      EXPECT_TRUE(best.finite);
    }
  }
}

TEST(Largest, PassesOverNanAndSaysSo) {
  std::vector<float> z(700, -1.0f);
  z[3] = kNan;
  z[600] = 2.0f;
  EXPECT_EQ(of(z).index, 600);
  EXPECT_FALSE(of(z).finite);
  z[3] = -kInf;
  EXPECT_EQ(of(z).index, 600);
  EXPECT_FALSE(of(z).finite);
  z[699] = kInf;
  EXPECT_EQ(of(z).index, 699);
}

TEST(Largest, OfNothingIsTheFirst) {
  EXPECT_EQ(of(std::vector<float>(20, -kInf)).index, 0);
  EXPECT_EQ(of(std::vector<float>(20, kNan)).index, 0);
  EXPECT_EQ(of({}).index, 0);
}

}  // namespace
}  // namespace fathom::ops
