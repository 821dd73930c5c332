// ModelSession: runs an opened model step by step on the CPU with page tables of its own, without
// scheduler or engine: for goldens, comparisons and measurements.
#pragma once

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "fathom/models/open_model.h"

namespace fathom::testing {

struct SessionOptions {
  int threads = 1;
  int64_t page_size = 16;
  int64_t max_sequences = 8;
  int64_t max_sequence_tokens = 512;
  int64_t max_step_tokens = 512;
  models::OpenOptions open = {};
  // Sees every named intermediate of every step (core/exec.h).
  std::function<void(std::string_view name, const Tensor&)> probe = {};
};

// New tokens of one sequence.
struct Feed {
  int sequence = 0;  // 0 .. max_sequences - 1
  std::vector<int32_t> tokens;
  bool all_logits = false;  // of every token; else of the last
};

class ModelSession {
 public:
  static Result<std::unique_ptr<ModelSession>> open(
      const std::string& path, const SessionOptions& options
  );

  const models::ModelConfig& config() const { return opened_.config; }
  // One step over all feeds; the logits [V] of the wanted tokens, feed after feed. Feeds of one
  // token come first.
  std::vector<std::vector<float>> step(const std::vector<Feed>& feeds);
  // Logits of the MTP layer for every token of one sequence that it has not seen: next tokens
  // t_{p+1} and the target's states h_p after its final norm, from the first position on.
  std::vector<std::vector<float>> draft(
      const std::vector<int32_t>& next_tokens, const std::vector<std::vector<float>>& hidden
  );
  // Forgets a sequence's positions; its pages return in random order.
  void clear(int sequence);

  // Greedy continuation of a sequence that holds nothing yet, its prompt in chunks of `chunk`.
  std::vector<int32_t> greedy(
      int sequence, const std::vector<int32_t>& prompt, int64_t tokens, int64_t chunk
  );

 private:
  struct Sequence {
    std::vector<int32_t> pages;
    int64_t length = 0;
  };
  ModelSession() = default;
  void grow(Sequence& sequence, int64_t tokens);

  MemoryLedger ledger_;
  std::unique_ptr<ThreadPool> pool_;
  Workspace workspace_;
  // Activations of products are not rounded to BF16, whatever the features' defaults.
  KernelChoice kernels_{
      .masked = {{"bf16_gemm", "avx512_bf16_rounded"}, {"head_gemm", "avx512_bf16_rounded"}}};
  std::function<void(std::string_view, const Tensor&)> probe_;
  Exec exec_;
  models::OpenedModel opened_;
  layers::KvCache cache_;
  std::vector<int32_t> free_pages_;
  std::vector<Sequence> sequences_;
  std::mt19937_64 random_{1};
};

}  // namespace fathom::testing
