// Who this rank is among the others. One rank, alone, unless said otherwise.
#pragma once

namespace fathom::plan {

struct Topology {
  int tp_rank = 0, tp_size = 1;  // tensor parallel: a layer's weights are cut over these
  int ep_rank = 0, ep_size = 1;  // expert parallel: whole experts are spread over these
  int dp_rank = 0, dp_size = 1;  // data parallel: other replicas of the attention part
};

}  // namespace fathom::plan
