// mha_prefill, row sm90: which tiles there are, and in which order they are taken.
//
// A tile is kQueries queries of one row and one key head: its tokens times the heads of the group,
// so that short rows fill a tile too. Key heads whose keys and values fit the L2 together go
// together; within such a set the tiles that see the most keys come first, so that the last ones to
// be taken are short and all multiprocessors end at about the same time.
#pragma once

#include <cuda_bf16.h>

#include "fathom/ops/attention/paged_rows.cuh"
#include "fathom/ops/device/reduce.cuh"

namespace fathom::ops::prefill {

constexpr int kKeys = 128;  // of a block
constexpr int kMostGroup = 512, kInverseBits = 20;

struct Arguments {
  attention::Rows rows;
  const __nv_bfloat16* q;
  const float* sinks;  // null: none
  __nv_bfloat16* y;
  float* lse;         // null: not wanted
  uint32_t* counter;  // of tiles taken; zero before and after
  int64_t q_stride, y_stride, lse_stride;
  int key_heads, sets, group, window;  // sets of key heads, see above
  int log2_page;
  uint32_t inverse_group;  // 2^kInverseBits / group, rounded up
  bool causal;
  bool boxes;   // 64 queries are whole tokens: boxes of q and y
  float scale;  // with log2 e
};

// Query r is head (lead + r) % group of token (lead + r) / group from first_token on: a tile may
// begin inside a token.
struct Tile {
  int queries = 0;  // 0: there are no more tiles
  int head;         // key head
  int lead;
  int first_token;          // of the step: that of the first query
  int first_position;       // not causal: the row's last, for all queries
  int first_block, blocks;  // of keys; the last one first
  int first_page;           // of the row, among all
  int last_page;            // of the row, among its own
};

// A row of the step, as its tiles need it.
struct Row {
  int begin, tokens, kv_len, first_page;
};

// By a warp; tiles of a row and head are numbered from the row's last, rows from the last.
template <int kQueries>
struct TileOrder {
  const Arguments& a;
  Row (&last_rows)[32];  // in shared memory: place i is the i-th from the last
  int each, tiles;       // of a key head, of all

  __device__ TileOrder(const Arguments& arguments, Row (&place)[32])
      : a(arguments), last_rows(place) {
    last_rows[lane()] = row_at(a.rows.count - 1 - lane());
    int own = tiles_of(last_rows[lane()]);
    for (int row = a.rows.count - 33 - lane(); row >= 0; row -= 32) own += tiles_of(row_at(row));
    each = __reduce_add_sync(device::kFullWarp, own);
    tiles = each * a.key_heads;
  }

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  static __device__ int from(int v, int of_lane) {
    return __shfl_sync(device::kFullWarp, v, of_lane);
  }
  // Without tokens where there is none. All loads at once: nothing else is under way at the start.
  __device__ Row row_at(int row) const {
    if (row < 0) return {};
    const int begin = a.rows.row_begin[row], end = a.rows.row_begin[row + 1];
    return {begin, end - begin, a.rows.kv_len[row], a.rows.page_begin[row]};
  }
  __device__ int tiles_of(const Row& row) const {
    return (row.tokens * a.group + kQueries - 1) / kQueries;
  }

  // index < tiles
  __device__ Tile at(int index) const {
    // Set s begins with head s * key_heads / sets.
    const int set = ((index / each + 1) * a.sets - 1) / a.key_heads;
    const int first = set * a.key_heads / a.sets;
    const int heads = (set + 1) * a.key_heads / a.sets - first;
    const int inside = index - first * each;
    return find(inside / heads, first + inside % heads);
  }

  __device__ Tile find(int number, int head) const {
    int left = number;
    for (int last = a.rows.count - 1;; last -= 32) {
      const bool kept = last == a.rows.count - 1;
      const Row row = kept ? last_rows[lane()] : row_at(last - lane());
      const int own = tiles_of(row);
      int sum = own;
#pragma unroll
      for (int d = 1; d < 32; d *= 2) {
        const int other = __shfl_up_sync(device::kFullWarp, sum, d);
        if (lane() >= d) sum += other;
      }
      const uint32_t reached = __ballot_sync(device::kFullWarp, sum > left);
      if (reached == 0) {
        left -= from(sum, 31);
        continue;
      }
      const int found = __ffs(static_cast<int>(reached)) - 1;
      const int from_last = left - from(sum - own, found);
      const Row its{
          from(row.begin, found),
          from(row.tokens, found),
          from(row.kv_len, found),
          from(row.first_page, found)};
      return make(its, head, tiles_of(its) - 1 - from_last);
    }
  }

  __device__ Tile make(const Row& row, int head, int index) const {
    const int cached = row.kv_len - row.tokens;
    const int query = index * kQueries, first = query / a.group;
    Tile tile{.queries = min(kQueries, row.tokens * a.group - query), .head = head};
    tile.first_page = row.first_page;
    tile.last_page = max(row.kv_len - 1, 0) >> a.log2_page;
    tile.lead = query - first * a.group;
    tile.first_token = row.begin + first;
    tile.first_position = cached + first;
    int last = cached + (query + tile.queries - 1) / a.group;
    if (!a.causal) tile.first_position = last = row.kv_len - 1;
    const int seen = a.window > 0 ? max(tile.first_position - a.window + 1, 0) : 0;
    tile.first_block = seen / kKeys;
    tile.blocks = (last + kKeys) / kKeys - tile.first_block;  // none where nothing is cached
    return tile;
  }
};

}  // namespace fathom::ops::prefill
