// NextnDecoder: speculative decoding with the model's MTP layer (feature nextn; DeepSeek-V3,
// section 2.2; EAGLE-2; specs deepseek_v3, sections 7 and 8). What one step does for a sequence
// with n committed positions, whose last token stands at n:
//
//   draft    the layer's candidates for position n + 1, kept since the step before, grow into a
//            tree of V nodes under the last token: S - 1 small forwards; a chain stops growing
//            behind a token that is not likely enough
//   verify   the model reads all V nodes at once, each sees its own path; NextnRunner draws a token
//            at the root and walks on as long as a child holds what was drawn
//   extend   the layer reads the accepted tokens with the model's own hidden states, which leaves
//            its rows in the cache and the candidates of the next step
//
// Every token is drawn by the sampler that draws it without speculation, from the same law with the
// same random number: the output is the same, whatever was drafted. The layer's rows (contracts D5)
// depend on the tokens before them alone; where a prefix hit or a swap left out the hidden state
// that the next row needs, the page before keeps it (KvCache::page_state).
//
// Thread rule: the step thread. Host memory only.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "fathom/layers/kv_cache.h"
#include "fathom/models/model.h"
#include "fathom/runtime/draft_batch.h"
#include "fathom/runtime/draft_tree.h"
#include "fathom/runtime/runner.h"
#include "fathom/runtime/slots.h"

namespace fathom::runtime {

// What a step committed of one sequence: positions start .. start + tokens.size() - 1, and the
// token drawn behind them.
struct Advance {
  int32_t batch_row = 0;
  int32_t start = 0;
  std::vector<plan::Token> tokens;
  std::vector<int32_t> hidden;  // of each of them, the row of the step's hidden states
  bool drawn = false;
  plan::Token next = 0;
};

class NextnDecoder {
 public:
  // `model` has an MTP layer. All that is named outlives the decoder.
  static Result<std::unique_ptr<NextnDecoder>> make(
      const models::Model& model,
      layers::KvCache& cache,
      MemoryLedger& ledger,
      Device device,
      const StepCapacity& capacity,
      const Speculation& speculation
  );

  const Speculation& speculation() const { return speculation_; }
  // Bytes of workspace beside the model's own.
  int64_t step_bytes() const;
  // Most tokens of a forward of the layer.
  int64_t step_tokens() const { return step_tokens_; }

  // Before staging: grows the tree of every decode row that verifies one, in its slot.
  void draft(Exec& exec, const plan::Batch& batch, SlotTable& slots);
  // After drawing: `hidden` [T, C] are the step's hidden states, `advances` what each of its rows
  // committed.
  void extend(
      Exec& exec, const plan::Batch& batch, const Tensor& hidden, std::span<const Advance> advances
  );

 private:
  // What the layer knows of a slot's sequence.
  struct State {
    std::vector<Candidate> candidates;  // for the position behind the last token
    int32_t hidden_of = -1;             // the position whose state row `last_` holds; -1: none
    // The last token has not been fed: the prompt ended with its last page, the next table is
    // longer.
    bool behind = false;
  };
  // What extend() feeds of one row.
  struct Feed {
    const Advance* advance;
    bool from_start;     // the row of the first token is fed too
    const void* before;  // the hidden state before it
  };

  NextnDecoder(
      const models::Model& model,
      layers::KvCache& cache,
      const StepCapacity& capacity,
      const Speculation& speculation
  );
  void begin_feeding();
  void catch_up(Exec& exec, const plan::Batch& batch, SlotTable& slots);
  void feed(Exec& exec);
  bool grows_on(const TreeGrower& grower) const;
  void draft_level(
      Exec& exec, const plan::Batch& batch, SlotTable& slots, int level, const Tensor& hidden
  );
  Feed feed_of(const plan::Batch& batch, const Advance& advance) const;
  void add_feed(const plan::Batch& batch, const Feed& feed, const Tensor& hidden);
  void keep(const plan::Batch& batch, const Advance& advance, const Tensor& hidden);
  std::span<const Candidate> candidates_of(Exec& exec, const Tensor& logits);

  const models::Model& model_;
  layers::KvCache& cache_;
  Speculation speculation_;
  int64_t step_tokens_, rows_;
  DraftBatch tokens_;
  std::vector<State> states_;  // by slot
  Buffer memory_;
  Tensor last_;                     // [slots, C]: the model's state of the last position
  Tensor draft_;                    // [slots, C]: the layer's state that `candidates` came from
  std::vector<size_t> growing_;     // batch rows of this step that verify
  std::vector<size_t> unfinished_;  // of them by number: whose tree grows by another level
  std::vector<TreeGrower> growers_;
  std::vector<const void*> inputs_;  // hidden states to feed
  std::vector<int32_t> wanted_;      // slots whose candidates are asked for
  std::vector<Candidate> candidates_;
};

}  // namespace fathom::runtime
