// sample, row law: the whole law on the device. A cluster of eight CTAs a row draws the token
// (sample_threshold.cuh); the logarithms of the raw law, where wanted, come behind it
// (logprob_slices.h).
#include <algorithm>

#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/sample/logprob_slices.h"
#include "fathom/ops/sample/sample_candidates.cuh"
#include "fathom/ops/sample/sample_law.cuh"
#include "fathom/ops/sample/sample_rows.h"

namespace fathom::ops {
namespace {

using sampling::Best;
using sampling::Cuts;
using sampling::kLog2e;
using Arguments = sampling::LawArguments;
using sampling::Row;
using sampling::Tally;
using sampling::Threshold;

struct Penalty {
  float repetition = 1, presence = 0, frequency = 0;
  int64_t slot = 0;
  bool on = false;
};

__device__ Penalty penalty_of(const Arguments& a, int row) {
  Penalty p;
  if (a.counts == nullptr) return p;
  p.repetition = a.repetition[row];
  p.presence = a.presence[row];
  p.frequency = a.frequency[row];
  p.slot = a.slot[row];
  p.on = p.repetition != 1 || p.presence != 0 || p.frequency != 0;
  return p;
}

// What a row's tokens were seen of, 8 of a thread at a time: one after another, each would wait for
// memory.
struct SeenTokens {
  static constexpr int kTokens = 8;
  int32_t count[kTokens];
  bool prompt[kTokens];

  __device__ __forceinline__
  SeenTokens(const Arguments& a, const Penalty& penalty, const Row& slice, int from) {
#pragma unroll
    for (int j = 0; j < kTokens; ++j) {
      const int i = from + j * sampling::kThreads;
      const int64_t at = penalty.slot * a.vocab + slice.begin + i;
      const bool within = penalty.on && i < slice.size();
      count[j] = within ? a.counts[at] : 0;
      prompt[j] = within && a.prompt_seen[at] != 0;
    }
  }
};

// Bias and penalties, in place; the best of this thread's tokens afterwards.
__device__ Best adjust(const Arguments& a, int row, const Penalty& penalty, const Row& slice) {
  if (a.bias_begin != nullptr) {
    const int last = a.bias_begin[row + 1];
    for (int i = a.bias_begin[row] + static_cast<int>(threadIdx.x); i < last;
         i += sampling::kThreads) {
      const int at = a.bias_token[i] - slice.begin;
      if (at >= 0 && at < slice.size()) atomicAdd(&slice.at(at), a.bias_value[i]);
    }
    __syncthreads();
  }
  Best best;
  for (int from = static_cast<int>(threadIdx.x); from < slice.size();
       from += SeenTokens::kTokens * sampling::kThreads) {
    const SeenTokens seen(a, penalty, slice, from);
#pragma unroll
    for (int j = 0; j < SeenTokens::kTokens; ++j) {
      const int i = from + j * sampling::kThreads;
      if (i >= slice.size()) break;
      float z = slice.at(i);
      if (seen.count[j] != 0 || seen.prompt[j]) {
        z = z > 0 ? z / penalty.repetition : z * penalty.repetition;
        if (seen.count[j] > 0)
          z -= penalty.presence + penalty.frequency * static_cast<float>(seen.count[j]);
        slice.at(i) = z;
      }
      best.see(z, slice.begin + i);
    }
  }
  return best;
}

__device__ Threshold cut_top_k(Row& slice, uint32_t top_k, uint64_t& kept_mass) {
  Tally above, equal;
  const auto reached = [&](Tally t) { return t.count >= top_k; };
  Threshold kept;
  kept.bits = slice.search(reached, {}, above, equal);
  kept.ties = top_k - above.count;
  kept_mass = above.mass + kept.ties * sampling::mass_of(__uint_as_float(kept.bits));
  return kept;
}

__device__ Threshold cut_top_p(Row& slice, float top_p, Threshold before, uint64_t mass) {
  const auto goal =
      static_cast<uint64_t>(ceil(static_cast<double>(top_p) * static_cast<double>(mass)));
  Tally above, equal;
  const auto reached = [&](Tally t) { return t.mass >= goal; };
  Threshold kept;
  kept.bits = slice.search(reached, before, above, equal);
  const uint64_t each = sampling::mass_of(__uint_as_float(kept.bits));
  const uint64_t missing = goal > above.mass ? goal - above.mass : 0;
  const uint64_t ties = each == 0 ? equal.count : (missing + each - 1) / each;
  kept.ties = static_cast<uint32_t>(ties < 1 ? 1 : ties);
  if (kept.bits == before.bits && kept.ties > before.ties) kept.ties = before.ties;
  return kept;
}

// The token at which the kept tokens' masses, in the order of their ids, exceed u of their sum;
// true in the one thread that holds it.
__device__ bool draw(Row& slice, Threshold kept, uint64_t random, int& token) {
  const int chunk = (slice.size() + sampling::kThreads - 1) / sampling::kThreads;
  const int from = min(static_cast<int>(threadIdx.x) * chunk, slice.size());
  const int to = min(from + chunk, slice.size());
  Tally own, all;
  uint32_t ties_before = 0;
  if (kept.ties != Threshold{}.ties) {
    for (int i = from; i < to; ++i) {
      if (__float_as_uint(slice.at(i)) == kept.bits) ++own.count;
    }
    ties_before = slice.scan(own, all).count;
  }
  const auto walk = [&](auto f) {
    uint32_t ties = ties_before;
    for (int i = from; i < to; ++i) {
      const float p = slice.at(i);
      const uint32_t bits = __float_as_uint(p);
      if (bits > kept.bits || (bits == kept.bits && ties++ < kept.ties)) {
        if (f(i, sampling::mass_of(p))) return true;
      }
    }
    return false;
  };
  own = {};
  walk([&](int, uint64_t mass) {
    own.mass += mass;
    return false;
  });
  const uint64_t before = slice.scan(own, all).mass;
  const uint64_t target = sampling::target_of(all.mass, random);
  if (target < before || target >= before + own.mass) return false;
  uint64_t reached = before;
  return walk([&](int i, uint64_t mass) {
    reached += mass;
    token = slice.begin + i;
    return reached > target;
  });
}

__device__ void finish(const Arguments& a, int row, const Penalty& penalty, int token) {
  a.token[row] = token;
  a.healthy[row] = 1;
  if (penalty.on) ++a.counts[penalty.slot * a.vocab + token];
}

// The token, in the one thread of the cluster that returns true. `own`: this thread's mass.
__device__ bool draw_token(Row& slice, const Cuts& cuts, Tally own, uint64_t random, int& token) {
  Threshold kept;
  if (cuts.top_k > 0 || cuts.top_p < 1) {
    Tally all, above, in_digit;
    if (cuts.top_k == 0) slice.scan(own, all);
    // In units of 2^-34, and beyond what rounding down took from all tokens.
    const auto goal = static_cast<uint64_t>(cuts.top_p * static_cast<double>(all.mass >> 6)) +
                      static_cast<uint64_t>(slice.size()) * sampling::kCtas;
    slice.fill_coarse(cuts.top_k == 0);
    const uint32_t digit = slice.find<sampling::kCoarseSlice>(
        [&](Tally t) { return cuts.top_k > 0 ? t.count >= cuts.top_k : t.mass >= goal; },
        above,
        in_digit
    );
    const uint32_t count = above.count + in_digit.count;
    if (count <= sampling::kCandidates) {
      const uint64_t mass = sampling::collect(slice, digit);
      return slice.rank == 0 &&
             sampling::draw_candidates(slice.s, static_cast<int>(count), mass, cuts, random, token);
    }
    uint64_t mass = all.mass;
    if (cuts.top_k > 0) kept = cut_top_k(slice, cuts.top_k, mass);
    if (cuts.top_p < 1) kept = cut_top_p(slice, cuts.top_p, kept, mass);
  }
  if (cuts.min_p > 0 && __float_as_uint(cuts.min_p) > kept.bits)
    kept = {__float_as_uint(cuts.min_p)};
  return draw(slice, kept, random, token);
}

__device__ void sample_row(const Arguments& a, int row, Row& slice) {
  const float* logits = a.logits + row * a.stride + slice.begin;
  Best raw;
  slice.each([&](int i) {
    const float z = __ldcg(logits + i);
    slice.at(i) = z;
    raw.see(z, slice.begin + i);
  });
  const bool first = slice.rank == 0 && threadIdx.x == 0;
  raw = slice.best_of_cluster(raw, slice.s.best);
  if (!raw.healthy()) {
    if (first) a.token[row] = a.healthy[row] = 0;
    return;
  }
  const Penalty penalty = penalty_of(a, row);
  Best best = raw;
  if (penalty.on || a.bias_begin != nullptr)
    best = slice.best_of_cluster(adjust(a, row, penalty, slice), slice.s.adjusted);
  const float temperature = a.temperature[row];
  if (temperature == 0 || !best.healthy()) {
    if (first) finish(a, row, penalty, best.healthy() ? best.index : 0);
    return;
  }
  const float rate = kLog2e / temperature;
  Tally own;
  slice.each([&](int i) {
    const float p = exp2f((slice.at(i) - best.value) * rate);
    slice.at(i) = p;
    own.mass += sampling::mass_of(p);
  });
  __syncthreads();
  const uint64_t random = sampling::random_bits(
      static_cast<uint64_t>(a.seed[row]), static_cast<uint32_t>(a.position[row])
  );
  Cuts cuts{static_cast<uint32_t>(a.top_k[row]), a.top_p[row], a.min_p[row]};
  if (cuts.top_k >= static_cast<uint32_t>(a.vocab)) cuts.top_k = 0;
  int token = 0;
  if (draw_token(slice, cuts, own, random, token)) finish(a, row, penalty, token);
}

__global__ void __launch_bounds__(sampling::kThreads) sample_rows(const Arguments a) {
  extern __shared__ __align__(16) uint8_t memory[];
  auto& storage = *reinterpret_cast<sampling::SharedStorage*>(memory);
  auto* probabilities = reinterpret_cast<float*>(memory + sizeof(sampling::SharedStorage));
  device::launch_successor();
  device::wait_for_predecessor();
  const uint32_t rank = device::cluster_rank();
  const int each = (a.vocab + sampling::kCtas - 1) / sampling::kCtas;
  const int begin = min(static_cast<int>(rank) * each, a.vocab);
  Row slice{storage, probabilities, begin, min(begin + each, a.vocab), rank};
  // Which of the cluster's next 32 rows are to be drawn: every warp asks for all of them at once.
  const int lane = static_cast<int>(threadIdx.x) % 32, step = static_cast<int>(gridDim.y);
  for (int first = static_cast<int>(blockIdx.y); first < a.rows; first += 32 * step) {
    const int own = first + lane * step;
    const bool mine = own < a.rows && (a.left == nullptr || __ldcg(a.left + own) != 0);
    for (uint32_t rows = __ballot_sync(device::kFullWarp, mine); rows != 0; rows &= rows - 1) {
      sample_row(a, first + (__ffs(static_cast<int>(rows)) - 1) * step, slice);
      device::cluster_barrier();  // peers may still read this CTA's memory
    }
  }
}

template <class T>
T* pointer(const Tensor& t) {
  return t.defined() ? static_cast<T*>(t.data) : nullptr;
}

int shared_bytes(int64_t vocab) {
  const int64_t each = (vocab + sampling::kCtas - 1) / sampling::kCtas;
  const int64_t floats = each + each / 32 + 1;
  return static_cast<int>(
      sizeof(sampling::SharedStorage) + sizeof(float) * static_cast<size_t>(floats)
  );
}

}  // namespace

bool sample_takes_cuda_law(const Exec&, const Sample& args) {
  constexpr int kMost = 227 << 10;
  return shared_bytes(args.logits.dim(1)) <= kMost && args.logits.dim(0) < 65536 &&
         !args.draft_begin.defined();
}

sampling::LawArguments sampling::law_arguments(const Sample& args) {
  return {
      .logits = args.logits.as<float>(),
      .stride = args.logits.stride(0),
      .vocab = static_cast<int>(args.logits.dim(1)),
      .rows = static_cast<int>(args.logits.dim(0)),
      .temperature = args.temperature.as<float>(),
      .top_p = args.top_p.as<float>(),
      .min_p = args.min_p.as<float>(),
      .top_k = args.top_k.as<int32_t>(),
      .seed = args.seed.as<int64_t>(),
      .position = args.position.as<int32_t>(),
      .repetition = pointer<float>(args.repetition),
      .presence = pointer<float>(args.presence),
      .frequency = pointer<float>(args.frequency),
      .slot = pointer<int32_t>(args.slot),
      .counts = pointer<int32_t>(args.counts),
      .prompt_seen = pointer<uint8_t>(args.prompt_seen),
      .bias_begin = pointer<int32_t>(args.bias_begin),
      .bias_token = pointer<int32_t>(args.bias_token),
      .bias_value = pointer<float>(args.bias_value),
      .token = args.token.as<int32_t>(),
      .healthy = args.healthy.as<uint8_t>(),
      .left = nullptr,
  };
}

void sampling::run_law(Exec& exec, const Sample& args, const uint8_t* left) {
  const int64_t rows = args.logits.dim(0);
  LawArguments a = law_arguments(args);
  a.left = left;
  // Few rows are left of many: no more clusters than run at once.
  constexpr int64_t kAtOnce = 32;
  const int64_t clusters = left == nullptr ? rows : std::min(rows, kAtOnce);
  cuda::launch(
      exec,
      "sample",
      {.grid = dim3(kCtas, static_cast<unsigned>(clusters)),
       .threads = kThreads,
       .shared_bytes = shared_bytes(args.logits.dim(1)),
       .cluster = kCtas},
      sample_rows,
      a
  );
  if (!args.logprob.defined() && !args.top_token.defined()) return;
  logprob_slices(
      exec,
      "sample",
      {.logits = args.logits,
       .token = args.token,
       .logprob = args.logprob,
       .top_token = args.top_token,
       .top_logprob = args.top_logprob}
  );
}

void sample_cuda_law(Exec& exec, const Sample& args) {
  sampling::run_law(exec, args, nullptr);
}

}  // namespace fathom::ops
