// Perplexity of a text: the log probability that the model gives each of its tokens, read in
// windows.
#pragma once

#include <functional>
#include <span>

#include "fathom/engine/engine.h"

namespace fathom::apps {

// A window holds at most `size` tokens. The first one speaks of all its tokens but the first, each
// further one begins `stride` tokens later and speaks of its last `stride`: every token but the
// text's first counts once, and but for the first window's has at least size - stride before it.
struct Windows {
  int size = 0;
  int stride = 0;  // 1 .. size - 1
};

struct Perplexity {
  double nll = 0;  // sum over `tokens` of -ln p(token | the window's tokens before it)
  int64_t tokens = 0;
  int64_t windows = 0;
  double mean_nll() const { return nll / static_cast<double>(tokens); }
  double value() const;  // e to the mean
};

// `concurrency` windows at a time. `on_window` is called with the sum so far, by one thread at a
// time. The Error names a window that is longer than the engine takes, a text of less than two
// tokens, a failed request.
Result<Perplexity> perplexity(
    engine::Engine& engine,
    std::span<const plan::Token> tokens,
    Windows windows,
    int concurrency,
    const std::function<void(const Perplexity&)>& on_window = {}
);

}  // namespace fathom::apps
