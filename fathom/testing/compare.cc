#include "fathom/testing/compare.h"

#include <cmath>

#include "fathom/ops/element.h"

#if FATHOM_CUDA
#include "fathom/core/cuda/cuda_memory.h"
#include "fathom/testing/cuda/late_writer.h"
#endif

namespace fathom::testing {
namespace {

// Calls f(offset of the innermost run, length) for each innermost row of t.
template <class F>
void for_each_run(const Tensor& t, F f) {
  const int64_t inner = t.dim(-1);
  int64_t outer = 1;
  for (int d = 0; d + 1 < t.rank; ++d) outer *= t.dim(d);
  for (int64_t i = 0; i < outer; ++i) {
    int64_t rest = i, offset = 0;
    for (int d = t.rank - 2; d >= 0; --d) {
      offset += rest % t.dim(d) * t.stride(d);
      rest /= t.dim(d);
    }
    f(offset, inner);
  }
}

std::string compare_bytes(const Tensor& got, const Tensor& wanted) {
  std::string failure;
  std::vector<int64_t> offsets;
  for_each_run(got, [&](int64_t offset, int64_t) { offsets.push_back(offset); });
  size_t i = 0;
  for_each_run(wanted, [&](int64_t offset, int64_t n) {
    const int64_t bytes = bytes_of(wanted.dtype, n);
    const auto* a = static_cast<const uint8_t*>(got.data) + bytes_of(got.dtype, offsets[i++]);
    const auto* b = static_cast<const uint8_t*>(wanted.data) + bytes_of(wanted.dtype, offset);
    for (int64_t k = 0; k < bytes && failure.empty(); ++k) {
      if (a[k] != b[k])
        failure = fmt::format("byte {} of run {} differs: {} wanted, {} got", k, i - 1, b[k], a[k]);
    }
  });
  return failure;
}

bool is_float(DType d) {
  return d == DType::f32 || d == DType::bf16 || d == DType::f16 || d == DType::f8e4m3;
}

}  // namespace

std::string compare(const Tensor& got, const Tensor& wanted, const Bound& bound) {
  CHECK(
      got.dtype == wanted.dtype && got.dims == wanted.dims,
      "{} against {}",
      got.describe(),
      wanted.describe()
  );
  if (!is_float(got.dtype)) return compare_bytes(got, wanted);
  std::vector<int64_t> offsets;
  for_each_run(got, [&](int64_t offset, int64_t) { offsets.push_back(offset); });
  double dot = 0, got_norm = 0, wanted_norm = 0, worst = 0;
  std::string failure;
  size_t run = 0;
  for_each_run(wanted, [&](int64_t offset, int64_t n) {
    for (int64_t k = 0; k < n; ++k) {
      const double w = ops::load_element(wanted, offset + k);
      const double g = ops::load_element(got, offsets[run] + k);
      if (!std::isfinite(w) || !std::isfinite(g)) {
        const bool same = (std::isnan(w) && std::isnan(g)) || w == g;
        if (!same && failure.empty())
          failure = fmt::format("row {} column {}: {} wanted, {} got", run, k, w, g);
        continue;
      }
      const double excess = std::fabs(g - w) - (bound.absolute + bound.relative * std::fabs(w));
      if (excess > worst) {
        worst = excess;
        failure = fmt::format(
            "row {} column {}: {} wanted, {} got, {} above the bound", run, k, w, g, excess
        );
      }
      dot += g * w;
      got_norm += g * g;
      wanted_norm += w * w;
    }
    ++run;
  });
  if (failure.empty() && wanted_norm > 0) {
    const double distance = 1.0 - dot / std::sqrt(got_norm * wanted_norm);
    if (!(distance <= bound.cosine))
      failure = fmt::format("1 - cosine is {}, at most {}", distance, bound.cosine);
  }
  return failure;
}

#if FATHOM_CUDA

namespace {

Buffer device_buffer(MemoryLedger& ledger, Device device, int64_t bytes) {
  Result<Buffer> memory = Buffer::allocate(ledger, device, bytes, Purpose::workspace);
  CHECK(memory.ok(), "{}", memory.error().message);
  return std::move(*memory);
}

}  // namespace

void DeviceMirror::to_device(Tensor& t, Role role) {
  if (device_.is_cpu()) return;
  const int64_t bytes = extent_bytes(t);
  Buffer memory = device_buffer(ledger_, device_, bytes);
  if (bytes > 0) cuda::copy_to_device(memory.data(), t.data, bytes);
  copies_.push_back({t, std::move(memory), {}, bytes, role});
  t.data = copies_.back().memory.data();
  t.device = device_;
}

void DeviceMirror::duplicate(Tensor& t) {
  const int64_t bytes = extent_bytes(t);
  Buffer memory = device_buffer(ledger_, device_, bytes);
  if (bytes > 0) cuda::copy_on_device(memory.data(), t.data, bytes);
  copies_.push_back({t, std::move(memory), {}, bytes, Role::in});
  t.data = copies_.back().memory.data();
}

void DeviceMirror::delay_inputs(const Exec& exec) {
  // Not for integers: ids and lengths read as poison could be addresses out of bounds; zero is in.
  constexpr uint8_t kFloatPoison = 0xEF;
  std::vector<LateCopy> copies;
  for (Copy& copy : copies_) {
    if ((copy.role != Role::in && copy.role != Role::inout) || copy.bytes == 0) continue;
    const uint8_t poison = is_float(copy.host.dtype) ? kFloatPoison : uint8_t{0};
    const std::vector<uint8_t> wrong(static_cast<size_t>(copy.bytes), poison);
    copy.late = device_buffer(ledger_, device_, copy.bytes);
    cuda::copy_on_device(copy.late.data(), copy.memory.data(), copy.bytes);
    cuda::copy_to_device(copy.memory.data(), wrong.data(), copy.bytes);
    copies.push_back({copy.memory.data(), copy.late.data(), copy.bytes});
  }
  cuda::synchronize(device_);
  write_late(exec, copies);
}

void DeviceMirror::to_host() {
  if (device_.is_cpu()) return;
  cuda::synchronize(device_);
  for (const Copy& copy : copies_) {
    if (!is_written(copy.role)) continue;
    for_each_extent(copy.host, [&](int64_t from, int64_t bytes) {
      cuda::copy_to_host(
          static_cast<uint8_t*>(copy.host.data) + from,
          static_cast<const uint8_t*>(copy.memory.data()) + from,
          bytes
      );
    });
  }
}

#else

void DeviceMirror::to_device(Tensor&, Role) {
  CHECK(device_.is_cpu(), "{} in a build without CUDA", device_.describe());
}
void DeviceMirror::duplicate(Tensor& t) {
  CHECK(false, "{} is no device's tensor in a build without CUDA", t.describe());
}
void DeviceMirror::delay_inputs(const Exec&) {}
void DeviceMirror::to_host() {}

#endif

void DeviceMirror::restore(Tensor& t, Role) {
  if (device_.is_cpu()) return;
  t = copies_.at(restored_++).host;
}

}  // namespace fathom::testing
