#include "fathom/testing/op_case.h"

#include <algorithm>
#include <cstring>

#include "fathom/ops/element.h"

namespace fathom::testing {
namespace {

constexpr size_t kZone = 256;  // bytes before and after each tensor
constexpr uint8_t kRed = 0xA5;
constexpr uint8_t kPoison =
    0xEF;  // large negative as float, bf16 and f16; 0x6F.. never a right answer

}  // namespace

Tensor CaseInputs::storage(DType dtype, std::initializer_list<int64_t> dims) {
  Tensor t = Tensor::of(nullptr, dtype, Device::cpu(), dims);
  const size_t bytes = static_cast<size_t>(t.bytes());
  // calloc: gigabytes of zeros cost their first touch, no pass of their own.
  Block block{{static_cast<uint8_t*>(std::calloc(bytes + 3 * kZone, 1)), {}}, bytes};
  CHECK(block.memory != nullptr, "no memory for {} bytes", bytes);
  uint8_t* begin = block.memory.get();
  auto* data = reinterpret_cast<uint8_t*>(
      (reinterpret_cast<uintptr_t>(begin) + 2 * kZone - 1) / kZone * kZone
  );
  std::fill(begin, data, kRed);
  std::fill(data + bytes, begin + bytes + 3 * kZone, kRed);
  t.data = data;
  blocks_.push_back(std::move(block));
  return t;
}

Tensor CaseInputs::normal(DType dtype, std::initializer_list<int64_t> dims, float deviation) {
  constexpr int64_t kPeriod = 1'000'003;
  Tensor t = storage(dtype, dims);
  std::normal_distribution<float> law(0.0f, deviation);
  const int64_t n = t.elements();
  const int64_t drawn = std::min(n, kPeriod);
  for (int64_t i = 0; i < drawn; ++i) ops::store_element(t, i, law(random_));
  auto* bytes = static_cast<uint8_t*>(t.data);
  for (int64_t i = drawn; i < n; i += drawn) {
    const int64_t count = std::min(drawn, n - i);
    std::memcpy(bytes + bytes_of(dtype, i), bytes, static_cast<size_t>(bytes_of(dtype, count)));
  }
  return t;
}

Tensor CaseInputs::integers(
    DType dtype, std::initializer_list<int64_t> dims, int64_t low, int64_t high
) {
  Tensor t = storage(dtype, dims);
  std::uniform_int_distribution<int64_t> law(low, high);
  const int64_t n = t.elements();
  for (int64_t i = 0; i < n; ++i) {
    const int64_t v = law(random_);
    switch (dtype) {
      case DType::i8:
        t.as<int8_t>()[i] = static_cast<int8_t>(v);
        break;
      case DType::i32:
        t.as<int32_t>()[i] = static_cast<int32_t>(v);
        break;
      case DType::i64:
        t.as<int64_t>()[i] = v;
        break;
      default:
        t.as<uint8_t>()[i] = static_cast<uint8_t>(v);
        break;
    }
  }
  return t;
}

Tensor CaseInputs::values(std::initializer_list<int64_t> dims, const std::vector<int32_t>& data) {
  Tensor t = storage(DType::i32, dims);
  CHECK(
      t.elements() == static_cast<int64_t>(data.size()),
      "{} from {} values",
      t.describe(),
      data.size()
  );
  std::copy(data.begin(), data.end(), t.as<int32_t>());
  return t;
}

Tensor CaseInputs::output(DType dtype, std::initializer_list<int64_t> dims) {
  Tensor t = storage(dtype, dims);
  std::memset(t.data, kPoison, static_cast<size_t>(t.bytes()));
  return t;
}

bool CaseInputs::red_zones_intact() const {
  for (const Block& block : blocks_) {
    const uint8_t* begin = block.memory.get();
    auto address = reinterpret_cast<uintptr_t>(begin);
    const uint8_t* data =
        reinterpret_cast<const uint8_t*>((address + 2 * kZone - 1) / kZone * kZone);
    const auto red = [](uint8_t b) { return b == kRed; };
    if (!std::all_of(begin, data, red)) return false;
    if (!std::all_of(data + block.bytes, begin + block.bytes + 3 * kZone, red)) return false;
  }
  return true;
}

namespace detail {

HostWorkspace::HostWorkspace() : ledger_(std::make_unique<MemoryLedger>()) {
  constexpr int64_t kBytes = int64_t{4} << 30;
  Result<Buffer> memory = Buffer::allocate(*ledger_, Device::cpu(), kBytes, Purpose::workspace);
  CHECK(memory.ok(), "{}", memory.error().message);
  workspace_ = std::make_unique<Workspace>(std::move(*memory));
}

}  // namespace detail
}  // namespace fathom::testing
