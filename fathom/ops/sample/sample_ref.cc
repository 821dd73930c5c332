#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "fathom/ops/sample/largest.h"
#include "fathom/ops/sample/sample_rows.h"

namespace fathom::ops {
namespace {

template <class T>
T at(const Tensor& t, int64_t b) {
  return t.as<T>()[b];
}

// Zeroes the probabilities that top_k, top_p and min_p cut away.
void cut(std::vector<double>& p, int32_t top_k, float top_p, float min_p) {
  std::vector<int32_t> order(p.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return p[static_cast<size_t>(a)] > p[static_cast<size_t>(b)];
  });
  const auto of = [&](size_t rank) -> double& { return p[static_cast<size_t>(order[rank])]; };
  size_t kept = p.size();
  if (top_k > 0) kept = std::min(kept, static_cast<size_t>(top_k));
  double sum = 0;
  for (size_t i = 0; i < kept; ++i) sum += of(i);
  if (top_p < 1.0f) {
    double reached = 0;
    size_t i = 0;
    while (i < kept && reached < static_cast<double>(top_p) * sum) reached += of(i++);
    kept = std::max<size_t>(i, 1);
  }
  while (kept > 1 && of(kept - 1) < static_cast<double>(min_p) * of(0)) --kept;
  for (size_t i = kept; i < p.size(); ++i) of(i) = 0;
}

// The token at share u of the law's mass, in id order.
int32_t invert(const std::vector<double>& p, float u) {
  const double target = std::accumulate(p.begin(), p.end(), 0.0) * static_cast<double>(u);
  double reached = 0;
  size_t last = 0;
  for (size_t v = 0; v < p.size(); ++v) {
    if (p[v] == 0) continue;
    last = v;
    reached += p[v];
    if (reached > target) break;
  }
  return static_cast<int32_t>(last);
}

// The drafted token that is taken, or -1: then the law has none of them any more.
int32_t take_draft(const Sample& args, int64_t b, float u, std::vector<double>& p) {
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  double reached = 0;
  for (int32_t i = at<int32_t>(args.draft_begin, b); i < at<int32_t>(args.draft_begin, b + 1);
       ++i) {
    const int32_t token = at<int32_t>(args.draft_token, i);
    double& mass = p[static_cast<size_t>(token)];
    const double own = mass / sum;
    reached += own;
    const bool taken =
        static_cast<double>(u) <= reached / static_cast<double>(args.threshold_acc) ||
        own >= static_cast<double>(args.threshold_single);
    if (taken && own > 0) return token;
    mass = 0;
  }
  return -1;
}

int32_t draw(const Sample& args, int64_t b, const std::vector<float>& z) {
  const float temperature = at<float>(args.temperature, b);
  const auto largest = std::max_element(z.begin(), z.end());
  if (temperature == 0.0f) return static_cast<int32_t>(largest - z.begin());
  std::vector<double> p(z.size());
  for (size_t v = 0; v < z.size(); ++v) {
    p[v] = std::exp((static_cast<double>(z[v]) - *largest) / temperature);
  }
  const int32_t top_k = at<int32_t>(args.top_k, b);
  const float top_p = at<float>(args.top_p, b), min_p = at<float>(args.min_p, b);
  if (top_k > 0 || top_p < 1.0f || min_p > 0.0f) cut(p, top_k, top_p, min_p);
  const auto seed = static_cast<uint64_t>(at<int64_t>(args.seed, b));
  const auto position = static_cast<uint32_t>(at<int32_t>(args.position, b));
  const float u = uniform_of(seed, position);
  if (!args.draft_begin.defined()) return invert(p, u);
  const int32_t draft = take_draft(args, b, u, p);
  return draft >= 0 ? draft : invert(p, uniform_of(seed, position, 1));
}

void write_logprobs(const Sample& args, int64_t b, const float* logits, int64_t V, int32_t token) {
  const double largest = *std::max_element(logits, logits + V);
  double sum = 0;
  for (int64_t v = 0; v < V; ++v) sum += std::exp(static_cast<double>(logits[v]) - largest);
  const double log_sum = largest + std::log(sum);
  if (args.logprob.defined()) {
    args.logprob.as<float>()[b] = static_cast<float>(static_cast<double>(logits[token]) - log_sum);
  }
  if (!args.top_token.defined()) return;
  const int64_t k = args.top_token.dim(1);
  std::vector<int32_t> order(static_cast<size_t>(V));
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](int32_t x, int32_t y) {
    return logits[x] != logits[y] ? logits[x] > logits[y] : x < y;
  });
  for (int64_t i = 0; i < k; ++i) {
    const int32_t id = order[static_cast<size_t>(i)];
    args.top_token.row(b).as<int32_t>()[i] = id;
    args.top_logprob.row(b).as<float>()[i] =
        static_cast<float>(static_cast<double>(logits[id]) - log_sum);
  }
}

}  // namespace

bool finite_enough(const float* z, int64_t V) {
  bool any = false;
  for (int64_t v = 0; v < V; ++v) {
    if (std::isnan(z[v]) || z[v] == std::numeric_limits<float>::infinity()) return false;
    any = any || std::isfinite(z[v]);
  }
  return any;
}

void adjust_logits(const Sample& args, int64_t b, float* z, int64_t V) {
  if (args.bias_begin.defined()) {
    for (int32_t i = at<int32_t>(args.bias_begin, b); i < at<int32_t>(args.bias_begin, b + 1);
         ++i) {
      z[at<int32_t>(args.bias_token, i)] += at<float>(args.bias_value, i);
    }
  }
  if (!args.counts.defined()) return;
  const float repetition = at<float>(args.repetition, b);
  const float presence = at<float>(args.presence, b);
  const float frequency = at<float>(args.frequency, b);
  if (repetition == 1.0f && presence == 0.0f && frequency == 0.0f) return;
  const int32_t slot = at<int32_t>(args.slot, b);
  const int32_t* counts = args.counts.row(slot).as<int32_t>();
  const uint8_t* seen = args.prompt_seen.row(slot).as<uint8_t>();
  for (int64_t v = 0; v < V; ++v) {
    if (counts[v] == 0 && seen[v] == 0) continue;
    z[v] = z[v] > 0 ? z[v] / repetition : z[v] * repetition;
    if (counts[v] > 0) z[v] -= presence + frequency * static_cast<float>(counts[v]);
  }
}

void count_token(const Sample& args, int64_t b, int32_t token) {
  if (!args.counts.defined()) return;
  const bool penalised = at<float>(args.repetition, b) != 1.0f ||
                         at<float>(args.presence, b) != 0.0f ||
                         at<float>(args.frequency, b) != 0.0f;
  if (penalised) ++args.counts.row(at<int32_t>(args.slot, b)).as<int32_t>()[token];
}

void sample_ref(Exec& exec, const Sample& args) {
  (void)exec;
  const int64_t B = args.logits.dim(0), V = args.logits.dim(1);
  std::vector<float> z(static_cast<size_t>(V));
  for (int64_t b = 0; b < B; ++b) {
    const float* logits = args.logits.row(b).as<float>();
    const bool healthy = finite_enough(logits, V);
    args.healthy.as<uint8_t>()[b] = healthy ? 1 : 0;
    int32_t token = 0;
    if (healthy) {
      std::copy(logits, logits + V, z.begin());
      adjust_logits(args, b, z.data(), V);
      token = draw(args, b, z);
      count_token(args, b, token);
    }
    args.token.as<int32_t>()[b] = token;
    if (args.logprob.defined() || args.top_token.defined())
      write_logprobs(args, b, logits, V, token);
  }
}

void sample_argmax(Exec& exec, const Sample& args) {
  const int64_t B = args.logits.dim(0), V = args.logits.dim(1);
  exec.parallel_for(B, 1, [&](Range range) {
    for (int64_t b = range.begin; b < range.end; ++b) {
      const float* z = args.logits.row(b).as<float>();
      const Largest best = largest_of(z, V);
      const bool healthy = best.finite || finite_enough(z, V);  // a masked token is -inf
      args.token.as<int32_t>()[b] = healthy ? static_cast<int32_t>(best.index) : 0;
      args.healthy.as<uint8_t>()[b] = healthy ? 1 : 0;
    }
  });
}

}  // namespace fathom::ops
