// How a CPU product's work is cut into threads' parts. It never changes a result.
#pragma once

#include <cstdint>

#include "fathom/base/threads.h"

namespace fathom::ops {

// rows_own_copy: by rows of W; each thread prepares all of x for itself, cheaper than waiting for
// another while tokens are few. rows: by rows of W; x is prepared together. tokens: by tokens; each
// thread prepares its own and reads all of W, so that no activation passes between cores.
enum class WorkSplit : uint8_t { rows_own_copy, rows, tokens };

inline WorkSplit split_work(int64_t M, int threads) {
  constexpr int64_t kOwnTokens = 32;  // of a thread, from which on they are worth W once more
  if (threads > 1 && M >= kOwnTokens * threads) return WorkSplit::tokens;
  return M < 4 ? WorkSplit::rows_own_copy : WorkSplit::rows;
}

// So many of them, cut at multiples of `grain`.
struct Grains {
  int64_t n;
  int64_t grain;
};

struct ThreadPart {
  Range tokens, rows;
  bool empty() const { return tokens.begin >= tokens.end || rows.begin >= rows.end; }
};

inline ThreadPart part_of(WorkSplit split, Grains tokens, Grains rows, int thread, int threads) {
  if (split == WorkSplit::tokens)
    return {.tokens = part(tokens.n, tokens.grain, thread, threads), .rows = {0, rows.n}};
  return {.tokens = {0, tokens.n}, .rows = part(rows.n, rows.grain, thread, threads)};
}

}  // namespace fathom::ops
