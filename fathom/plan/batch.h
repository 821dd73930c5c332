// What one step must do: the bridge between the deciding tower (sched) and the doing tower
// (runtime). Ids and lengths, never device memory. Immutable once planned (contracts.md, section
// 5).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "fathom/plan/request.h"

namespace fathom::plan {

using PageId = int32_t;  // 0 is the dummy page (P1)
using StepId = int64_t;  // dense, given by plan()

// Said by the Decoder: most tokens a decode row can add (A), positions it may write (W), input
// tokens it has (V).
struct Lookahead {
  int advance_max = 1;
  int span = 1;
  int width = 1;
};

// What one step does for one sequence.
struct Row {
  int64_t sequence = 0;
  int32_t slot = -1;         // device slot of the sequence (D1)
  int32_t start = 0;         // position of the first input token; most it can be when from_device
  int32_t count = 0;         // input tokens: of the chunk, or 1, or V
  bool chunk = false;        // part of a prompt; else a decode row
  bool from_device = false;  // input token and start are what the row before left in the slot (D3)
  bool emits = false;        // logits are wanted: a decode row or the last chunk
  bool embeds = false;       // its hidden states join the pooled one; with `emits` that is wanted
  bool scores = false;  // log probabilities of the prompt's tokens behind a chunk's own are wanted;
                        // all of them with `emits`
  bool plain = false;   // a decode row without draft state: one token in, one out (D4)
  bool awaits_mask = false;  // grammar (G2)
};

// First row of a slot's new owner: what the sampler must know (D2, G1).
struct SlotReset {
  int32_t slot = -1;
  int32_t choice = 0;         // index among n, mixed into the seed (D6)
  int32_t prompt = 0;         // tokens of history that are prompt; the rest is output
  int32_t history_begin = 0;  // into Batch::history
  int32_t history_count = 0;  // all known tokens, when penalties need them; else none
  std::shared_ptr<const Request> request;
};

struct Batch {
  StepId id = 0;
  uint64_t incarnation = 0;
  std::vector<Row> rows;      // oldest sequence first; may be empty (B6)
  std::vector<Token> tokens;  // host input tokens, row after row; 0 where only the device knows
  std::vector<PageId> pages;  // tables, row after row
  std::vector<int32_t> page_begin;  // rows + 1 offsets into pages
  std::vector<SlotReset> resets;
  std::vector<Token> history;

  // Empty again, with its capacity: batches are recycled, so that planning does not allocate.
  void clear() {
    id = 0;
    incarnation = 0;
    rows.clear();
    tokens.clear();
    pages.clear();
    page_begin.clear();
    resets.clear();
    history.clear();
  }
};

}  // namespace fathom::plan
