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

// The parts of one product. By rows, threads share what is left of them at the end.
class ProductParts {
 public:
  ProductParts(WorkSplit split, Grains tokens, Grains rows, int threads)
      : split_(split),
        tokens_(tokens),
        rows_(rows),
        threads_(threads),
        shared_(split == WorkSplit::tokens ? 0 : rows.n, rows.grain, threads) {}

  // Which tokens this thread works on, whatever the rows.
  Range tokens_of(int thread) const {
    if (split_ != WorkSplit::tokens) return {0, tokens_.n};
    return part(tokens_.n, tokens_.grain, thread, threads_);
  }
  // Calls f(rows) until nothing is left to do.
  template <class F>
  void each(int thread, const F& f) {
    if (split_ == WorkSplit::tokens) return f(Range{0, rows_.n});
    for (Range rows; shared_.take(thread, rows);) f(rows);
  }

 private:
  WorkSplit split_;
  Grains tokens_, rows_;
  int threads_;
  SharedRanges shared_;
};

}  // namespace fathom::ops
