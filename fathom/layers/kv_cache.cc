#include "fathom/layers/kv_cache.h"

namespace fathom::layers {

Result<KvCache> KvCache::allocate(
    MemoryLedger& ledger, Device device, const KvLayout& layout, int64_t pages, int64_t page_size
) {
  CHECK(pages >= 1 && page_size >= 1, "{} pages of {} tokens", pages, page_size);
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
    t.strides[0] = layout_.layers * layer_elements;
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

}  // namespace fathom::layers
