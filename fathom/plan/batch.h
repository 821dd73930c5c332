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

// Said by the Decoder: most tokens a decode row can add (A), positions it may write (W).
struct Lookahead {
  int advance_max = 1;
  int span = 1;
};

// What one step does for one sequence.
struct Row {
  int64_t sequence = 0;
  int32_t slot = -1;         // device slot of the sequence (D1)
  int32_t start = 0;         // position of the first input token; a bound when from_device
  int32_t count = 0;         // input tokens
  bool chunk = false;        // part of a prompt; else a decode row
  bool from_device = false;  // input token and start are what the row before left in the slot (D3)
  bool emits = false;        // logits are wanted: a decode row or the last chunk
  bool awaits_mask = false;  // grammar (G2)
};

// First row of a slot's new owner: what the sampler must know (D2, G1).
struct SlotReset {
  int32_t slot = -1;
  int32_t choice = 0;  // index among n, mixed into the seed (D6)
  int32_t prompt = 0;  // tokens of history that are prompt; the rest is output
  std::shared_ptr<const Request> request;
  std::vector<Token> history;  // all known tokens, when penalties need them; else empty
};

struct Batch {
  StepId id = 0;
  uint64_t incarnation = 0;
  std::vector<Row> rows;            // oldest sequence first; may be empty (B6)
  std::vector<Token> tokens;        // host input tokens, row after row; 0 where from_device
  std::vector<PageId> pages;        // tables, row after row
  std::vector<int32_t> page_begin;  // rows + 1 offsets into pages
  std::vector<SlotReset> resets;
};

}  // namespace fathom::plan
