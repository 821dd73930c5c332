// KvCache: owner of the bytes of all pages. Which sequence holds which page is PagePool's business
// (cache); they share the page's number. Page 0 is the dummy page that padded rows write to
// (contracts P1).
//
// A page is one contiguous range of memory, over all layers: [layers, keys then values], then its
// state; so a page moves to the host and back by one copy. Within a layer keys lie as [Hkv, p, D]:
// one head's keys of a page are contiguous.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "fathom/core/buffer.h"
#include "fathom/core/tensor.h"

namespace fathom::layers {

// What one position of the cache holds. MLA keeps one head of key_dim = L + R and no values.
struct KvLayout {
  int64_t layers = 0;
  int64_t kv_heads = 0;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
  DType dtype = DType::f32;  // f32, f16 or bf16; u8: FP8 rows of latents, key_dim bytes
                             // each (feature fp8_kv_cache)
  // What a page keeps beside its positions: the hidden state behind the last of them, from which a
  // draft layer goes on in the next page. 0: nothing.
  int64_t state_dim = 0;
  DType state_dtype = DType::f32;

  int64_t page_bytes(int64_t page_size) const {
    return bytes_of(dtype, layers * kv_heads * (key_dim + value_dim) * page_size) +
           bytes_of(state_dtype, state_dim);
  }
};

// One layer's pages, as the ops take them.
struct LayerKv {
  Tensor keys;    // [P, Hkv, p, D]; pages are strided
  Tensor values;  // [P, Hkv, p, Dv]; undefined when the layout has none
};

class KvCache {
 public:
  // `pages` counts the dummy page. The Error says what holds the memory.
  static Result<KvCache> allocate(
      MemoryLedger& ledger, Device device, const KvLayout& layout, int64_t pages, int64_t page_size
  );

  KvCache() = default;

  LayerKv layer(int64_t i) const;
  const KvLayout& layout() const { return layout_; }
  int64_t pages() const { return pages_; }
  int64_t page_size() const { return page_size_; }  // positions in a page
  int64_t page_bytes() const { return layout_.page_bytes(page_size_); }
  // The bytes of one page, in device memory.
  std::span<uint8_t> page(int64_t page) const;
  Tensor page_state(int64_t page) const;  // [state_dim]

  // Copies the keys and values of one position to another, in the first `layers` layers. Host
  // memory only.
  struct Place {
    int64_t page = 0, slot = 0;
  };
  void copy_position(Place from, Place to, int64_t layers) const;

 private:
  Buffer memory_;
  KvLayout layout_;
  int64_t pages_ = 0;
  int64_t page_size_ = 0;
};

}  // namespace fathom::layers
