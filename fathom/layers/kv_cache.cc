#include "fathom/layers/kv_cache.h"

#include <cstring>

namespace fathom::layers {

Result<KvCache> KvCache::allocate(
    MemoryLedger& ledger, Device device, const KvLayout& layout, int64_t pages, int64_t page_size
) {
  CHECK(pages >= 1 && page_size >= 1, "{} pages of {} tokens", pages, page_size);
  CHECK(
      layout.page_bytes(page_size) % info(layout.dtype).block_bytes == 0,
      "pages of {} bytes",
      layout.page_bytes(page_size)
  );
  KvCache cache;
  cache.layout_ = layout;
  cache.pages_ = pages;
  cache.page_size_ = page_size;
  Result<Buffer> memory = Buffer::allocate(ledger, device, pages * cache.page_bytes(), Purpose::kv);
  if (!memory.ok()) return memory.error();
  cache.memory_ = std::move(*memory);
  return cache;
}

LayerKv KvCache::layer(int64_t i) const {
  CHECK(i >= 0 && i < layout_.layers, "layer {} of {}", i, layout_.layers);
  const int64_t key_elements = layout_.kv_heads * page_size_ * layout_.key_dim;
  const int64_t value_elements = layout_.kv_heads * page_size_ * layout_.value_dim;
  const int64_t layer_elements = key_elements + value_elements;
  auto* base = static_cast<uint8_t*>(memory_.data()) + bytes_of(layout_.dtype, i * layer_elements);
  const auto view = [&](int64_t offset, int64_t dim) {
    Tensor t = Tensor::of(
        base + bytes_of(layout_.dtype, offset),
        layout_.dtype,
        memory_.device(),
        {pages_, layout_.kv_heads, page_size_, dim}
    );
    t.strides[0] = page_bytes() / info(layout_.dtype).block_bytes;
    return t;
  };
  LayerKv kv{.keys = view(0, layout_.key_dim)};
  if (layout_.value_dim > 0) kv.values = view(key_elements, layout_.value_dim);
  return kv;
}

std::span<uint8_t> KvCache::page(int64_t page) const {
  CHECK(page >= 0 && page < pages_, "page {} of {}", page, pages_);
  const auto bytes = static_cast<size_t>(page_bytes());
  return {static_cast<uint8_t*>(memory_.data()) + static_cast<size_t>(page) * bytes, bytes};
}

Tensor KvCache::page_state(int64_t i) const {
  const std::span<uint8_t> bytes = page(i);
  const int64_t state = bytes_of(layout_.state_dtype, layout_.state_dim);
  return Tensor::of(
      bytes.data() + bytes.size() - static_cast<size_t>(state),
      layout_.state_dtype,
      memory_.device(),
      {layout_.state_dim}
  );
}

void KvCache::copy_position(Place from, Place to, int64_t layers) const {
  CHECK(!memory_.device().is_cuda(), "positions are copied on the host");
  const auto copy = [&](const Tensor& rows) {
    if (!rows.defined()) return;
    const int64_t element = info(rows.dtype).block_bytes;
    const auto bytes = static_cast<size_t>(rows.dim(3) * element);
    for (int64_t g = 0; g < rows.dim(1); ++g) {
      const auto at = [&](Place place) {
        return static_cast<uint8_t*>(rows.data) +
               element *
                   (place.page * rows.stride(0) + g * rows.stride(1) + place.slot * rows.stride(2));
      };
      std::memcpy(at(to), at(from), bytes);
    }
  };
  for (int64_t i = 0; i < layers; ++i) {
    const LayerKv kv = layer(i);
    copy(kv.keys);
    copy(kv.values);
  }
}

}  // namespace fathom::layers
