// Copies of nano-deepseek with its FP8 matrices written in another form, for tests of what a
// checkpoint may hold.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "fathom/base/json.h"
#include "fathom/core/dtype.h"
#include "fathom/ops/quant/fp8_blocks.h"

namespace fathom::testing {

inline const std::filesystem::path kNano = "models/nano-deepseek";

// One tensor of a file that is written.
struct StoredTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// The values and scales [N, K], [N/128, K/128] of an FP8 matrix of the checkpoint.
struct Fp8Matrix {
  int64_t N, K;
  const uint8_t* codes;
  const float* scales;
  size_t block(int64_t n, int64_t k) const {
    return static_cast<size_t>(n / 128 * ops::fp8_blocks(K) + k / 128);
  }
  float value(int64_t n, int64_t k) const {
    return f8e4m3_to_float(codes[n * K + k]) * scales[block(n, k)];
  }
  size_t blocks() const { return static_cast<size_t>(ops::fp8_blocks(N) * ops::fp8_blocks(K)); }
};

using StoredTensors = std::map<std::string, StoredTensor>;
// Writes an FP8 matrix and whatever belongs to it.
using Rewrite = std::function<void(const std::string& name, const Fp8Matrix&, StoredTensors&)>;

// Scales of four significant bits: their products with codes are whole in BF16, and so is 448 times
// one, which is the largest value of its block.
float coarse(float scale);
// The matrix rounded to BF16.
void as_bf16(const std::string& name, const Fp8Matrix& m, StoredTensors& to);
// The matrix as BF16, to the bit, its scales being coarse.
void as_coarse_bf16(const std::string& name, const Fp8Matrix& m, StoredTensors& to);

// A copy of nano-deepseek with its FP8 matrices rewritten; removed with the object.
class NanoCopy {
 public:
  NanoCopy(const Rewrite& rewrite, const std::function<void(Json& config)>& configure);
  ~NanoCopy();
  NanoCopy(const NanoCopy&) = delete;
  NanoCopy& operator=(const NanoCopy&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace fathom::testing
