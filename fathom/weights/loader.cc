#include "fathom/weights/loader.h"

#include <fmt/format.h>
#include <algorithm>

#include "fathom/ops/element.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/weights/loader_scales.h"

namespace fathom::weights {
namespace {

constexpr size_t kProblemsShown = 8;

std::string shape_text(std::initializer_list<int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ","));
}

// Kernels read elements of this size; block types are read bytewise.
size_t alignment_of(DType dtype) {
  return info(dtype).block_elements == 1 ? static_cast<size_t>(info(dtype).block_bytes) : 2;
}

}  // namespace

Loader::Loader(WeightMap map, const Exec& exec, MemoryLedger& ledger, LoadOptions options)
    : exec_(exec),
      ledger_(ledger),
      options_(std::move(options)),
      map_(std::move(map)),
      upload_(exec, ledger) {
  progress_.bytes_total = map_.total_bytes();
}

Loader::Loader(const Dummy& dummy, const Exec& exec, MemoryLedger& ledger, LoadOptions options)
    : exec_(exec),
      ledger_(ledger),
      options_(std::move(options)),
      dummy_(dummy),
      upload_(exec, ledger) {}

void Loader::note(std::string message) {
  // Who finds no codes asks for values.
  if (std::ranges::find(problems_, message) == problems_.end())
    problems_.push_back(std::move(message));
}

void Loader::report(const Tensor& source) {
  progress_.bytes_done += source.bytes();
  if (options_.progress) options_.progress(progress_);
}

Tensor Loader::make(DType dtype, std::initializer_list<int64_t> dims) {
  return allocate(Tensor::of(nullptr, dtype, Device::cpu(), dims));
}

Tensor Loader::allocate(Tensor t) {
  Result<Buffer> memory = Buffer::allocate(ledger_, t.device, t.bytes(), Purpose::weights);
  if (!memory.ok()) {
    note(memory.error().message);
    return {};
  }
  t.data = memory->data();
  store_.buffers.push_back(std::move(*memory));
  return t;
}

Tensor Loader::make_shared(DType dtype, std::initializer_list<int64_t> dims) {
  constexpr int64_t kShared = int64_t{32} << 20, kAlign = 4096;
  Tensor t = Tensor::of(nullptr, dtype, Device::cpu(), dims);
  const int64_t bytes = (t.bytes() + kAlign - 1) / kAlign * kAlign;
  if (exec_.device.is_cuda() || bytes > kShared / 4) return allocate(t);
  if (bytes > shared_left_) {
    const Tensor buffer = make(DType::u8, {kShared});
    if (!buffer.defined()) return {};
    shared_at_ = static_cast<std::byte*>(buffer.data);
    shared_left_ = kShared;
  }
  t.data = shared_at_;
  shared_at_ += bytes;
  shared_left_ -= bytes;
  return t;
}

Tensor Loader::source(const Scope& name, std::initializer_list<int64_t> shape, bool codes) {
  taken_.insert(name.path());
  if (dummy_) return generated(name, shape);
  const WeightEntry* entry = map_.find(name.path());
  if (entry == nullptr) {
    note(fmt::format("tensor {} {} is missing", name.path(), shape_text(shape)));
    return {};
  }
  const Tensor t = mapped(name, *entry, shape, codes);
  if (!t.defined() || t.dtype != DType::f8e4m3) return t;
  const bool blocks = options_.fp8_scales == Fp8Scales::blocks;
  const bool wide = blocks ? options_.fp8 == Fp8Weights::dequantise : !codes;
  return wide ? dequantised(name, t) : t;
}

Tensor Loader::mapped(
    const Scope& name, const WeightEntry& entry, std::initializer_list<int64_t> shape, bool codes
) {
  const std::string& path = map_.files()[entry.file].path();
  if (!std::equal(shape.begin(), shape.end(), entry.shape.begin(), entry.shape.end())) {
    note(fmt::format(
        "{}: tensor {} is {}, {} wanted by the model's config",
        path,
        name.path(),
        describe(entry),
        shape_text(shape)
    ));
    return {};
  }
  const bool quantised = entry.dtype >= DType::q8_0;
  const bool real = is_float(entry.dtype) || entry.dtype == DType::f8e4m3;
  if (!quantised && !real && !(codes && entry.dtype == DType::i8)) {
    note(fmt::format(
        "{}: tensor {} is {}; weights may be f32, f16, bf16, f8e4m3{} or GGUF blocks",
        path,
        name.path(),
        describe(entry),
        codes ? ", i8" : ""
    ));
    return {};
  }
  // The mapping is read-only and so is everything that takes a weight.
  auto* data = const_cast<std::byte*>(map_.bytes(entry).data());
  const Tensor t = Tensor::of(data, entry.dtype, Device::cpu(), shape);
  if (reinterpret_cast<uintptr_t>(data) % alignment_of(entry.dtype) == 0) return t;
  const Tensor aligned = make(entry.dtype, shape);
  if (aligned.defined()) std::memcpy(aligned.data, data, entry.bytes);
  return aligned;
}

Tensor Loader::scalar(const Scope& name) {
  taken_.insert(name.path());
  const WeightEntry& entry = *map_.find(name.path());
  const Tensor t = make(entry.dtype, {1});
  if (t.defined()) std::memcpy(t.data, map_.bytes(entry).data(), static_cast<size_t>(t.bytes()));
  return t;
}

Tensor Loader::generated(const Scope& name, std::initializer_list<int64_t> shape) {
  const Tensor t = make(dummy_->dtype, shape);
  if (t.defined()) fill_dummy(exec_, *dummy_, name.path(), t);
  return t;
}

Tensor Loader::cut(const Scope& name, const Tensor& source, Shard shard) {
  const int ranks = options_.topology.tp_size, rank = options_.topology.tp_rank;
  if (shard == Shard::none || ranks == 1) return source;
  const int dimension = shard == Shard::rows ? 0 : 1;
  const int64_t unit = dimension == 0 ? 1 : info(source.dtype).block_elements;
  const int64_t size = source.dim(dimension);
  if (size % (ranks * unit) != 0) {
    note(fmt::format(
        "tensor {}: {} {} do not divide over {} ranks",
        name.path(),
        size,
        dimension == 0 ? "rows" : "columns",
        ranks
    ));
    return {};
  }
  const int64_t share = size / ranks;
  if (dimension == 0) return source.slice(0, rank * share, share);
  const Tensor part = make(source.dtype, {source.dim(0), share});
  if (!part.defined()) return {};
  const auto bytes = static_cast<size_t>(bytes_of(source.dtype, share));
  for (int64_t n = 0; n < source.dim(0); ++n) {
    const int64_t from = bytes_of(source.dtype, n * size + rank * share);
    std::memcpy(
        static_cast<uint8_t*>(part.data) + static_cast<size_t>(n) * bytes,
        static_cast<const uint8_t*>(source.data) + from,
        bytes
    );
  }
  release(source);
  return part;
}

void Loader::release(const Tensor& source) {
  const auto* data = static_cast<const std::byte*>(source.data);
  for (const MappedFile& file : map_.files()) {
    const std::span<const std::byte> bytes = file.bytes();
    if (data < bytes.data() || data >= bytes.data() + bytes.size()) continue;
    file.drop(static_cast<size_t>(data - bytes.data()), static_cast<size_t>(source.bytes()));
    return;
  }
  std::erase_if(store_.buffers, [&](const Buffer& buffer) { return buffer.data() == data; });
}

void Loader::pack(const Tensor& source, const Tensor& packed) {
  ops::pack_weight(exec_, {.source = source, .packed = packed});
  release(source);
}

Tensor Loader::place(const Tensor& source) {
  if (exec_.device.is_cuda()) return to_device(source);
  const DType dtype = ops::packed_dtype(source.dtype, source.dim(1));
  if (dtype == source.dtype) return source;
  const Tensor packed = make_shared(dtype, {ops::packed_rows(dtype, source.dim(0)), source.dim(1)});
  if (packed.defined()) pack(source, packed);
  return packed;
}

QTensor Loader::take(const Scope& name, std::initializer_list<int64_t> shape, Shard shard) {
  const Tensor whole = source(name, shape);
  if (!whole.defined()) return {};
  const Tensor part = cut(name, whole, shard);
  if (!part.defined()) return {};
  report(whole);
  if (part.dtype != DType::f8e4m3) return {.data = place(part)};
  if (shard != Shard::none && options_.topology.tp_size > 1) {
    note(fmt::format("tensor {}: FP8 matrices are not split over ranks", name.path()));
    return {};
  }
  const Tensor scale = scale_of(name, part);
  return {.data = place(part), .scale = publish(scale)};
}

Tensor Loader::take_rows(const Scope& name, std::initializer_list<int64_t> shape) {
  const Tensor t = source(name, shape);
  if (!t.defined()) return {};
  report(t);
  return exec_.device.is_cuda() ? to_device(t) : t;
}

Tensor Loader::host_vector(const Scope& name, int64_t size) {
  const Tensor t = source(name, {size});
  if (!t.defined()) return {};
  report(t);
  if (info(t.dtype).block_elements != 1) {
    note(fmt::format("tensor {} is {}; a vector is f32, f16 or bf16", name.path(), t.describe()));
    return {};
  }
  // A copy of f32 too: a page of the file that holds a vector costs many around it.
  const Tensor wide = make_shared(DType::f32, {size});
  if (!wide.defined()) return {};
  for (int64_t i = 0; i < size; ++i) wide.as<float>()[i] = ops::load_element(t, i);
  return wide;
}

Result<WeightStore> Loader::finish() {
  for (const auto& [name, entry] : map_.entries()) {
    if (taken_.contains(name)) continue;
    note(fmt::format(
        "{}: tensor {} {} is left over: the config describes a model without it",
        map_.files()[entry.file].path(),
        name,
        describe(entry)
    ));
  }
  upload_.finish();
  if (problems_.empty()) {
    store_.files = map_.take_files();
    // What is still read in place comes back from the page cache.
    for (const MappedFile& file : store_.files) file.drop(0, file.bytes().size());
    return std::move(store_);
  }
  const size_t shown = std::min(problems_.size(), kProblemsShown);
  std::string message = fmt::format(
      "{}", fmt::join(problems_.begin(), problems_.begin() + static_cast<long>(shown), "; ")
  );
  if (shown < problems_.size()) message += fmt::format("; and {} more", problems_.size() - shown);
  return Error{message};
}

}  // namespace fathom::weights
