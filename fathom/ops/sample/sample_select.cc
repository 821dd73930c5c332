// sample on the CPU without a sort of the vocabulary and without allocation: the likeliest tokens
// are selected in blocks that double until the cuts are decided. Rows go to threads whole.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "fathom/ops/sample/sample_rows.h"

namespace fathom::ops {
namespace {

constexpr int64_t kFirstBlock = 128;

// One thread's scratch, V each.
struct Scratch {
  float* z;
  double* p;       // exp((z - largest) / temperature)
  int32_t* order;  // ids, the likeliest first as far as they are selected
};

// Ids by falling probability, the lower id first on ties, selected as far as asked.
class Ranking {
 public:
  Ranking(const double* p, int32_t* order, int64_t V) : p_(p), order_(order), size_(V) {
    std::iota(order, order + V, 0);
  }

  double at(int64_t rank) {
    while (rank >= sorted_) sort_more();
    return p_[order_[rank]];
  }

 private:
  void sort_more() {
    const int64_t end = std::min(size_, std::max(kFirstBlock, 2 * sorted_));
    const auto before = [this](int32_t a, int32_t b) {
      return p_[a] != p_[b] ? p_[a] > p_[b] : a < b;
    };
    if (end < size_) std::nth_element(order_ + sorted_, order_ + end, order_ + size_, before);
    std::sort(order_ + sorted_, order_ + end, before);
    sorted_ = end;
  }

  const double* p_;
  int32_t* order_;
  int64_t size_;
  int64_t sorted_ = 0;
};

// How many of the likeliest top_k, top_p and min_p leave.
int64_t count_kept(const Sample& args, int64_t b, Ranking& ranking, const Scratch& s, int64_t V) {
  const int32_t top_k = args.top_k.as<int32_t>()[b];
  const double top_p = args.top_p.as<float>()[b], min_p = args.min_p.as<float>()[b];
  int64_t kept = top_k > 0 ? std::min<int64_t>(top_k, V) : V;
  if (top_p < 1.0) {
    double sum = 0;
    if (kept == V) {
      sum = std::accumulate(s.p, s.p + V, 0.0);
    } else {
      for (int64_t i = 0; i < kept; ++i) sum += ranking.at(i);
    }
    double reached = 0;
    int64_t i = 0;
    while (i < kept && reached < top_p * sum) reached += ranking.at(i++);
    kept = std::max<int64_t>(i, 1);
  }
  if (min_p > 0.0) {
    const double least = min_p * ranking.at(0);
    int64_t likely = 1;
    while (likely < kept && ranking.at(likely) >= least) ++likely;
    kept = likely;
  }
  ranking.at(kept - 1);
  return kept;
}

// The id at share u of the mass of `ids`, ascending.
template <class IdAt>
int32_t invert(const double* p, int64_t n, const IdAt& id_at, double u) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += p[id_at(i)];
  double reached = 0;
  int32_t last = id_at(0);
  for (int64_t i = 0; i < n; ++i) {
    const int32_t id = id_at(i);
    if (p[id] == 0) continue;
    last = id;
    reached += p[id];
    if (reached > sum * u) break;
  }
  return last;
}

int32_t draw(const Sample& args, int64_t b, const Scratch& s, int64_t V) {
  const float largest = *std::max_element(s.z, s.z + V);
  const float temperature = args.temperature.as<float>()[b];
  if (temperature == 0.0f) return static_cast<int32_t>(std::find(s.z, s.z + V, largest) - s.z);
  for (int64_t v = 0; v < V; ++v) {
    s.p[v] = std::exp((static_cast<double>(s.z[v]) - largest) / temperature);
  }
  const double u = uniform_of(
      static_cast<uint64_t>(args.seed.as<int64_t>()[b]),
      static_cast<uint32_t>(args.position.as<int32_t>()[b])
  );
  const bool cut = args.top_k.as<int32_t>()[b] > 0 || args.top_p.as<float>()[b] < 1.0f ||
                   args.min_p.as<float>()[b] > 0.0f;
  if (!cut)
    return invert(
        s.p, V, [](int64_t i) { return static_cast<int32_t>(i); }, u
    );
  Ranking ranking(s.p, s.order, V);
  const int64_t kept = count_kept(args, b, ranking, s, V);
  std::sort(s.order, s.order + kept);
  return invert(
      s.p, kept, [&](int64_t i) { return s.order[i]; }, u
  );
}

void write_logprobs(const Sample& args, int64_t b, int32_t token, const Scratch& s, int64_t V) {
  const float* logits = args.logits.row(b).as<float>();
  const double largest = *std::max_element(logits, logits + V);
  double sum = 0;
  for (int64_t v = 0; v < V; ++v) sum += std::exp(static_cast<double>(logits[v]) - largest);
  const double log_sum = largest + std::log(sum);
  const auto logprob = [&](int32_t id) {
    return static_cast<float>(static_cast<double>(logits[id]) - log_sum);
  };
  if (args.logprob.defined()) args.logprob.as<float>()[b] = logprob(token);
  if (!args.top_token.defined()) return;
  const int64_t k = args.top_token.dim(1);
  std::iota(s.order, s.order + V, 0);
  std::partial_sort(s.order, s.order + k, s.order + V, [&](int32_t x, int32_t y) {
    return logits[x] != logits[y] ? logits[x] > logits[y] : x < y;
  });
  for (int64_t i = 0; i < k; ++i) {
    args.top_token.row(b).as<int32_t>()[i] = s.order[i];
    args.top_logprob.row(b).as<float>()[i] = logprob(s.order[i]);
  }
}

void sample_row(const Sample& args, int64_t b, const Scratch& s, int64_t V) {
  const float* logits = args.logits.row(b).as<float>();
  const bool healthy = finite_enough(logits, V);
  args.healthy.as<uint8_t>()[b] = healthy ? 1 : 0;
  int32_t token = 0;
  if (healthy) {
    std::copy(logits, logits + V, s.z);
    adjust_logits(args, b, s.z, V);
    token = draw(args, b, s, V);
    count_token(args, b, token);
  }
  args.token.as<int32_t>()[b] = token;
  if (args.logprob.defined() || args.top_token.defined()) write_logprobs(args, b, token, s, V);
}

}  // namespace

int64_t sample_scratch_bytes(int64_t vocabulary, int threads) {
  const int64_t a_thread = vocabulary * (sizeof(float) + sizeof(double) + sizeof(int32_t));
  return threads * a_thread + 3 * Workspace::kAlign;
}

void sample_select(Exec& exec, const Sample& args) {
  const int64_t B = args.logits.dim(0), V = args.logits.dim(1), threads = exec.threads();
  Workspace::Mark mark(*exec.workspace);
  const Tensor z = exec.workspace->alloc(DType::f32, {threads, V});
  const Tensor p = exec.workspace->alloc(DType::i64, {threads, V});  // of doubles
  const Tensor order = exec.workspace->alloc(DType::i32, {threads, V});
  exec.on_threads([&](int thread, int used) {
    const Scratch scratch{
        .z = z.row(thread).as<float>(),
        .p = static_cast<double*>(p.row(thread).data),
        .order = order.row(thread).as<int32_t>()};
    const Range rows = part(B, 1, thread, used);
    for (int64_t b = rows.begin; b < rows.end; ++b) sample_row(args, b, scratch, V);
  });
}

}  // namespace fathom::ops
