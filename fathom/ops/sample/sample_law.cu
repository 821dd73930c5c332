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

// A thread's tokens of a slice, some groups of four: one after another, each would wait for memory.
constexpr int kGroups = 8;
constexpr int kGroupStep = 4 * sampling::kThreads;

// Four values from a multiple of four on, those outside 0.
template <class Four, class T>
__device__ __forceinline__ void load_four(const T* from, int left, bool wide, T* four) {
  if (wide && left >= 4) {
    const Four v = __ldcg(reinterpret_cast<const Four*>(from));
    four[0] = v.x;
    four[1] = v.y;
    four[2] = v.z;
    four[3] = v.w;
  } else {
#pragma unroll
    for (int c = 0; c < 4; ++c) four[c] = c < left ? __ldcg(from + c) : T{0};
  }
}

struct SeenTokens {
  int32_t count[4 * kGroups];
  uint8_t prompt[4 * kGroups];

  __device__ __forceinline__
  SeenTokens(const Arguments& a, const Penalty& penalty, const Row& slice, int from) {
    const bool wide = a.vocab % 4 == 0 && reinterpret_cast<uintptr_t>(a.counts) % 16 == 0 &&
                      reinterpret_cast<uintptr_t>(a.prompt_seen) % 4 == 0;
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
      const int i = from + j * kGroupStep, left = penalty.on ? slice.size() - i : 0;
      const int64_t at = penalty.slot * a.vocab + slice.begin + i;
      load_four<int4>(a.counts + at, left, wide, count + 4 * j);
      load_four<uchar4>(a.prompt_seen + at, left, wide, prompt + 4 * j);
    }
  }
};

// The slice's logits to shared memory; the best of this thread's.
__device__ Best load_logits(const float* logits, bool wide, const Row& slice) {
  Best best;
  for (int from = 4 * static_cast<int>(threadIdx.x); from < slice.size();
       from += kGroups * kGroupStep) {
    float z[4 * kGroups];
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
      const int i = from + j * kGroupStep;
      load_four<float4>(logits + i, slice.size() - i, wide, z + 4 * j);
    }
#pragma unroll
    for (int j = 0; j < 4 * kGroups; ++j) {
      const int i = from + j / 4 * kGroupStep + j % 4;
      if (i >= slice.size()) break;
      slice.at(i) = z[j];
      best.see(z[j], slice.begin + i);
    }
  }
  return best;
}

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
  for (int from = 4 * static_cast<int>(threadIdx.x); from < slice.size();
       from += kGroups * kGroupStep) {
    const SeenTokens seen(a, penalty, slice, from);
#pragma unroll
    for (int j = 0; j < 4 * kGroups; ++j) {
      const int i = from + j / 4 * kGroupStep + j % 4;
      if (i >= slice.size()) break;
      float z = slice.at(i);
      if (seen.count[j] != 0 || seen.prompt[j] != 0) {
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

// `least`: no less probable token can be kept.
__device__ Threshold cut_top_k(Row& slice, uint32_t top_k, uint32_t least, uint64_t& kept_mass) {
  Tally above, equal;
  const auto reached = [&](Tally t) { return t.count >= top_k; };
  Threshold kept;
  kept.bits = slice.search(reached, least, above, equal);
  kept.ties = top_k - above.count;
  kept_mass = above.mass + kept.ties * sampling::mass_of(__uint_as_float(kept.bits));
  return kept;
}

__device__ Threshold
cut_top_p(Row& slice, float top_p, Threshold before, uint32_t least, uint64_t mass) {
  const auto goal =
      static_cast<uint64_t>(ceil(static_cast<double>(top_p) * static_cast<double>(mass)));
  Tally above, equal;
  const auto reached = [&](Tally t) { return t.mass >= goal; };
  Threshold kept;
  kept.bits = slice.search(reached, max(before.bits, least), above, equal);
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

// The coarse digit below which a row's tokens have less than 1 - top_p of `mass`, however many:
// none of them is kept.
__device__ uint32_t least_digit(float top_p, uint64_t mass, int vocab) {
  const double rest = (0.999 - static_cast<double>(top_p)) * static_cast<double>(mass) / vocab - 1;
  return rest <= 0 ? 0 : __float_as_uint(static_cast<float>(rest * 0x1p-40)) >> 21;
}

// The token, in the one thread of the cluster that returns true. `own`: this thread's mass.
__device__ bool draw_token(
    Row& slice, const Cuts& cuts, int vocab, Tally own, uint64_t random, int& token
) {
  Threshold kept;
  if (cuts.top_k > 0 || cuts.top_p < 1) {
    Tally all, above, in_digit;
    if (cuts.top_k == 0) slice.scan(own, all);
    // In units of 2^-34, and beyond what rounding down took from all tokens.
    const auto goal = static_cast<uint64_t>(cuts.top_p * static_cast<double>(all.mass >> 6)) +
                      static_cast<uint64_t>(vocab);
    const uint32_t bound = cuts.top_k == 0 ? least_digit(cuts.top_p, all.mass, vocab) : 0;
    slice.fill_coarse(cuts.top_k == 0, bound);
    const uint32_t found = slice.find<sampling::kCoarseSlice>(
        [&](Tally t) { return cuts.top_k > 0 ? t.count >= cuts.top_k : t.mass >= goal; },
        above,
        in_digit
    );
    const uint32_t digit = max(found, bound), count = above.count + in_digit.count;
    if (count <= sampling::kCandidates) {
      const uint64_t mass = sampling::collect(slice, digit);
      return slice.rank == 0 &&
             sampling::draw_candidates(slice.s, static_cast<int>(count), mass, cuts, random, token);
    }
    uint64_t mass = all.mass;
    if (cuts.top_k > 0) kept = cut_top_k(slice, cuts.top_k, digit << 21, mass);
    if (cuts.top_p < 1) kept = cut_top_p(slice, cuts.top_p, kept, digit << 21, mass);
  }
  if (cuts.min_p > 0 && __float_as_uint(cuts.min_p) > kept.bits)
    kept = {__float_as_uint(cuts.min_p)};
  return draw(slice, kept, random, token);
}

__device__ void sample_row(const Arguments& a, int row, Row& slice) {
  const float* logits = a.logits + row * a.stride + slice.begin;
  const bool wide = a.stride % 4 == 0 && reinterpret_cast<uintptr_t>(a.logits) % 16 == 0;
  // All at once, beside the logits.
  const Penalty penalty = penalty_of(a, row);
  const float temperature = __ldcg(a.temperature + row);
  Cuts cuts{
      static_cast<uint32_t>(__ldcg(a.top_k + row)), __ldcg(a.top_p + row), __ldcg(a.min_p + row)};
  const int64_t seed = __ldcg(a.seed + row);
  const int position = __ldcg(a.position + row);
  const bool first = slice.rank == 0 && threadIdx.x == 0;
  const Best raw = slice.best_of_cluster(load_logits(logits, wide, slice), slice.s.best);
  if (!raw.healthy()) {
    if (first) a.token[row] = a.healthy[row] = 0;
    return;
  }
  Best best = raw;
  if (penalty.on || a.bias_begin != nullptr)
    best = slice.best_of_cluster(adjust(a, row, penalty, slice), slice.s.adjusted);
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
  const uint64_t random =
      sampling::random_bits(static_cast<uint64_t>(seed), static_cast<uint32_t>(position));
  if (cuts.top_k >= static_cast<uint32_t>(a.vocab)) cuts.top_k = 0;
  int token = 0;
  if (draw_token(slice, cuts, a.vocab, own, random, token)) finish(a, row, penalty, token);
}

// Whole groups.
template <class Int>
__host__ __device__ constexpr Int tokens_of_cta(Int vocab) {
  return (vocab + 4 * sampling::kCtas - 1) / (4 * sampling::kCtas) * 4;
}

__global__ void __launch_bounds__(sampling::kThreads) sample_rows(const Arguments a) {
  extern __shared__ __align__(16) uint8_t memory[];
  auto& storage = *reinterpret_cast<sampling::SharedStorage*>(memory);
  auto* probabilities = reinterpret_cast<float*>(memory + sizeof(sampling::SharedStorage));
  device::launch_successor();
  device::wait_for_predecessor();
  const uint32_t rank = device::cluster_rank();
  const int each = tokens_of_cta(a.vocab);
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
  const int64_t each = tokens_of_cta(vocab);
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
  // Few rows are left of many: no more clusters than run at once, a CTA a multiprocessor.
  constexpr int64_t kAtOnce = 16;
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
