#include "fathom/ops/gemm/pack_weight.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "fathom/ops/element.h"
#include "fathom/ops/gemm/block_quants.h"
#include "fathom/ops/gemm/packed_layout.h"

namespace fathom::ops {
namespace {

constexpr std::array<std::pair<DType, DType>, 13> kPacks = {{
    {DType::q8_0, DType::q8_0x16},
    {DType::q4_0, DType::q4_0x16},
    {DType::q4_1, DType::q4_1x16},
    {DType::q5_0, DType::q5_0x16},
    {DType::q5_1, DType::q5_1x16},
    {DType::q4_k, DType::q4_kx16},
    {DType::q5_k, DType::q5_kx16},
    {DType::q6_k, DType::q6_kx16},
    {DType::bf16, DType::bf16x32},
    {DType::f16, DType::f16x32},
    {DType::f32, DType::f32x32},
    {DType::f8e4m3, DType::f8e4m3x32},
    {DType::i8, DType::i8x16},
}};

// K must be a multiple of this.
int64_t inner_multiple(DType packed) {
  switch (packed) {
    case DType::bf16x32:
      return 2;
    case DType::f8e4m3x32:
      return 4;
    case DType::i8x16:
      return kChunk;
    default:
      return info(packed).block_elements;
  }
}

bool is_block_pack(DType packed) {
  return packed >= DType::q8_0x16 && packed <= DType::q6_kx16;
}

// Puts code (k, r) of a chunk into its planes, which start as zero.
void put_code(const PackedLayout& layout, uint8_t* codes, int k, int r, uint8_t code) {
  const int j = k / 4, at = 4 * r + k % 4;
  if (layout.high_bits == 4) {
    codes[64 * j + at] = code;
    return;
  }
  codes[64 * (j % 4) + at] |= static_cast<uint8_t>((code & 15) << (j < 4 ? 0 : 4));
  const int high = code >> 4;
  if (layout.high_bits == 1) codes[256 + at] |= static_cast<uint8_t>(high << j);
  if (layout.high_bits == 2)
    codes[256 + 64 * (j / 4) + at] |= static_cast<uint8_t>(high << (2 * (j % 4)));
}

uint8_t get_code(const PackedLayout& layout, const uint8_t* codes, int k, int r) {
  const int j = k / 4, at = 4 * r + k % 4;
  if (layout.high_bits == 4) return codes[64 * j + at];
  int code = codes[64 * (j % 4) + at] >> (j < 4 ? 0 : 4) & 15;
  if (layout.high_bits == 1) code |= (codes[256 + at] >> j & 1) << 4;
  if (layout.high_bits == 2) code |= (codes[256 + 64 * (j / 4) + at] >> (2 * (j % 4)) & 3) << 4;
  return static_cast<uint8_t>(code);
}

// Where a block format keeps the pieces that move as whole dwords: files whose 16 bytes of nibbles
// or 32 bytes are in the order of the planes.
struct DwordFormat {
  int dwords = 0;  // 0: not such a format
  int offset = 0;  // of the codes in the block
  uint32_t flip = 0;
};

DwordFormat dword_format(DType source) {
  switch (source) {
    case DType::q4_0:
      return {4, 2, 0};
    case DType::q4_1:
      return {4, 4, 0};
    case DType::q8_0:
      return {8, 2, 0x80808080u};
    default:
      return {};
  }
}

struct BlockPacker {
  DType source;
  PackedLayout layout;
  int64_t K;

  void pack_dwords(const DwordFormat& from, const uint8_t* block, int64_t k, int r, uint8_t* group)
      const {
    uint8_t* codes = group + layout.codes(k) + 4 * r;
    for (int i = 0; i < from.dwords; ++i) {
      uint32_t dword;
      std::memcpy(&dword, block + from.offset + 4 * i, 4);
      dword ^= from.flip;
      std::memcpy(codes + 64 * i, &dword, 4);
    }
    std::memcpy(group + layout.d(K, k) + 2 * r, block, 2);
    if (layout.minimum) std::memcpy(group + layout.m(K, k) + 2 * r, block + 2, 2);
  }

  void pack_parts(const uint8_t* block, int64_t k, int r, uint8_t* group) const {
    const BlockParts parts = take_apart(source, block);
    for (int e = 0; e < layout.block; ++e) {
      uint8_t* codes = group + layout.codes(k + e);
      put_code(layout, codes, e % kChunk, r, parts.code[static_cast<size_t>(e)]);
    }
    std::memcpy(group + layout.d(K, k) + 2 * r, &parts.d, 2);
    if (layout.minimum) std::memcpy(group + layout.m(K, k) + 2 * r, &parts.m, 2);
    for (int i = 0; i < layout.scales; ++i) {
      const auto part = static_cast<size_t>(16 / layout.scales * i);
      group[layout.scale(k, i) + r] = static_cast<uint8_t>(parts.scale[part]);
      if (layout.minimum)
        group[layout.minimum_scale(k, i) + r] = static_cast<uint8_t>(parts.minimum[part]);
    }
  }

  // Rows [row, row + rows) of the source into one group; the others of the 16 become zero.
  void pack_group(const Tensor& from, int64_t row, int rows, uint8_t* group) const {
    const DwordFormat dwords = dword_format(source);
    if (dwords.dwords == 0 || rows < kGroupRows)
      std::memset(group, 0, static_cast<size_t>(layout.group_bytes(K)));
    const int block_bytes = info(source).block_bytes;
    const int64_t row_bytes = K / layout.block * block_bytes;
    for (int64_t k = 0; k < K; k += layout.block) {
      for (int r = 0; r < rows; ++r) {
        const uint8_t* block = static_cast<const uint8_t*>(from.data) + (row + r) * row_bytes +
                               k / layout.block * block_bytes;
        if (dwords.dwords > 0) {
          pack_dwords(dwords, block, k, r, group);
        } else {
          pack_parts(block, k, r, group);
        }
      }
    }
  }
};

// Where element (r, k) of a group of i8x16 stands, and what is added to its bits.
constexpr uint8_t kInt8Flip = 0x80;
constexpr int64_t int8_offset(int64_t k, int r) {
  return k / 4 * 4 * kGroupRows + 4 * r + k % 4;
}

void pack_int8_group(const Tensor& from, int64_t row, int rows, uint8_t* group) {
  const int64_t K = from.dim(1);
  if (rows < kGroupRows)
    std::memset(group, kInt8Flip, static_cast<size_t>(packed_layout(DType::i8x16).group_bytes(K)));
  for (int r = 0; r < rows; ++r) {
    const auto* source = static_cast<const uint8_t*>(from.data) + (row + r) * from.stride(0);
    for (int64_t k = 0; k < K; k += 4) {
      uint32_t dword;
      std::memcpy(&dword, source + k, sizeof(dword));
      dword ^= kInt8Flip * 0x01010101u;
      std::memcpy(group + int8_offset(k, r), &dword, sizeof(dword));
    }
  }
}

void decode_int8_row(const Tensor& weight, int64_t n, float* values) {
  const int64_t K = weight.dim(1);
  const auto* group = static_cast<const uint8_t*>(weight.data) +
                      n / kGroupRows * packed_layout(DType::i8x16).group_bytes(K);
  const int r = static_cast<int>(n % kGroupRows);
  for (int64_t k = 0; k < K; ++k)
    values[k] = static_cast<float>(static_cast<int8_t>(group[int8_offset(k, r)] ^ kInt8Flip));
}

// Byte offset of element (r, k) of a panel of 32 rows.
int64_t panel_offset(DType packed, int64_t k, int r) {
  switch (packed) {
    case DType::bf16x32:
      return k / 2 * 128 + 4 * r + 2 * (k % 2);
    case DType::f16x32:
      return k * 64 + 2 * r;
    case DType::f32x32:
      return k * 128 + 4 * r;
    default: {
      const int64_t v = k % 4;
      const int half = r / 16, l = r % 16 / 4, j = r % 4;
      return k / 4 * 128 + 64 * half + 16 * l + 2 * j + (v & 1) + 8 * (v >> 1);
    }
  }
}

template <int kBytes>
void pack_panel(const Tensor& from, int64_t row, int rows, DType packed, uint8_t* panel) {
  const int64_t K = from.dim(1);
  if (rows < kPanelRows) std::memset(panel, 0, static_cast<size_t>(K * kBytes * kPanelRows));
  // A tile of k at a time: 32 source rows stay in the first-level cache.
  constexpr int64_t kTile = 64;
  for (int64_t k0 = 0; k0 < K; k0 += kTile) {
    const int64_t end = std::min(K, k0 + kTile);
    for (int r = 0; r < rows; ++r) {
      const auto* source =
          static_cast<const uint8_t*>(from.data) + (row + r) * from.stride(0) * kBytes;
      for (int64_t k = k0; k < end; ++k)
        std::memcpy(panel + panel_offset(packed, k, r), source + k * kBytes, kBytes);
    }
  }
}

void decode_block_pack_row(const Tensor& weight, int64_t n, float* values) {
  const PackedLayout layout = packed_layout(weight.dtype);
  const int64_t K = weight.dim(1);
  const auto* group =
      static_cast<const uint8_t*>(weight.data) + n / kGroupRows * layout.group_bytes(K);
  const int r = static_cast<int>(n % kGroupRows);
  for (int64_t k = 0; k < K; k += layout.block) {
    BlockParts parts;
    parts.offset = code_offset(weight.dtype);
    parts.scale.fill(1);
    parts.minimum.fill(1);
    for (int e = 0; e < layout.block; ++e)
      parts.code[static_cast<size_t>(e)] =
          get_code(layout, group + layout.codes(k + e), e % kChunk, r);
    std::memcpy(&parts.d, group + layout.d(K, k) + 2 * r, 2);
    if (layout.minimum) std::memcpy(&parts.m, group + layout.m(K, k) + 2 * r, 2);
    for (int i = 0; i < 16 && layout.scales > 0; ++i) {
      const int from = i * layout.scales / 16;
      const uint8_t scale = group[layout.scale(k, from) + r];
      const bool is_signed = weight.dtype == DType::q6_kx16;
      parts.scale[static_cast<size_t>(i)] = is_signed ? static_cast<int8_t>(scale) : scale;
      if (layout.minimum)
        parts.minimum[static_cast<size_t>(i)] = group[layout.minimum_scale(k, from) + r];
    }
    block_values(parts, layout.block, values + k);
  }
}

void decode_panel_row(const Tensor& weight, int64_t n, float* values) {
  const int64_t K = weight.dim(1);
  const int64_t panel_elements = K * kPanelRows;
  Tensor panel = weight;
  panel.dtype = unpacked_dtype(weight.dtype);
  const int bytes = info(weight.dtype).block_bytes;
  const int r = static_cast<int>(n % kPanelRows);
  for (int64_t k = 0; k < K; ++k) {
    const int64_t element = panel_offset(weight.dtype, k, r) / bytes;
    values[k] = load_element(panel, n / kPanelRows * panel_elements + element);
  }
}

}  // namespace

DType packed_dtype(DType source, int64_t K) {
  for (const auto& [from, to] : kPacks) {
    if (from == source) return K > 0 && K % inner_multiple(to) == 0 ? to : source;
  }
  return source;
}

bool is_packed(DType dtype) {
  return info(dtype).pack_rows > 1;
}

DType unpacked_dtype(DType packed) {
  for (const auto& [from, to] : kPacks) {
    if (to == packed) return from;
  }
  return packed;
}

int64_t packed_rows(DType packed, int64_t N) {
  const int64_t rows = info(packed).pack_rows;
  return (N + rows - 1) / rows * rows;
}

void pack_weight(const Exec& exec, const PackWeight& args) {
  const Tensor& from = args.source;
  const DType packed = args.packed.dtype;
  CHECK(
      from.rank == 2 && is_packed(packed) && packed == packed_dtype(from.dtype, from.dim(1)) &&
          args.packed.rank == 2 && args.packed.dim(0) == packed_rows(packed, from.dim(0)) &&
          args.packed.dim(1) == from.dim(1),
      "pack_weight: {} into {}",
      from.describe(),
      args.packed.describe()
  );
  CHECK(
      reinterpret_cast<uintptr_t>(args.packed.data) % 64 == 0,
      "pack_weight: {} is not at a multiple of 64 bytes",
      args.packed.describe()
  );
  const int64_t N = from.dim(0), K = from.dim(1);
  const int rows = info(packed).pack_rows;
  const int64_t bytes = bytes_of(packed, rows * K);
  exec.parallel_for(args.packed.dim(0) / rows, 1, [&](Range groups) {
    for (int64_t g = groups.begin; g < groups.end; ++g) {
      auto* to = static_cast<uint8_t*>(args.packed.data) + g * bytes;
      const int here = static_cast<int>(std::min<int64_t>(rows, N - g * rows));
      if (is_block_pack(packed)) {
        BlockPacker{from.dtype, packed_layout(packed), K}.pack_group(from, g * rows, here, to);
      } else if (packed == DType::i8x16) {
        pack_int8_group(from, g * rows, here, to);
      } else if (info(packed).block_bytes == 1) {
        pack_panel<1>(from, g * rows, here, packed, to);
      } else if (info(packed).block_bytes == 2) {
        pack_panel<2>(from, g * rows, here, packed, to);
      } else {
        pack_panel<4>(from, g * rows, here, packed, to);
      }
    }
  });
}

void decode_row(const Tensor& weight, int64_t n, float* values) {
  CHECK(weight.rank == 2 && n >= 0 && n < weight.dim(0), "row {} of {}", n, weight.describe());
  const int64_t K = weight.dim(1);
  if (is_block_pack(weight.dtype)) {
    decode_block_pack_row(weight, n, values);
  } else if (weight.dtype == DType::i8x16) {
    decode_int8_row(weight, n, values);
  } else if (is_packed(weight.dtype)) {
    decode_panel_row(weight, n, values);
  } else if (is_block_quant(weight.dtype)) {
    const int64_t row_bytes = bytes_of(weight.dtype, K);
    decode_blocks(
        weight.dtype, static_cast<const uint8_t*>(weight.data) + n * row_bytes, K, values
    );
  } else {
    for (int64_t k = 0; k < K; ++k) values[k] = load_element(weight, n * weight.stride(0) + k);
  }
}

}  // namespace fathom::ops
