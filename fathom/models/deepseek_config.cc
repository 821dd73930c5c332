#include "fathom/models/deepseek_config.h"

namespace fathom::models {
namespace {

using ops::MoeGate;

void read_attention(Keys& keys, ModelConfig& config) {
  MlaConfig mla;
  mla.query_rank = keys.integer("q_lora_rank", 0);
  mla.latent = keys.integer("kv_lora_rank");
  mla.nope_dim = keys.integer("qk_nope_head_dim");
  mla.rope_dim = keys.integer("qk_rope_head_dim");
  mla.value_dim = keys.integer("v_head_dim");
  if (config.qkv_bias) keys.refuse("attention_bias", "true", "false");
  config.kv_heads = config.heads;
  config.head_dim = mla.nope_dim + mla.rope_dim;
  config.rope.pairs = ops::RopePairs::adjacent;
  config.mla = mla;
}

// V2 chooses by softmax, freely or among the groups of largest maximum; V3 by sigmoid and a bias,
// among the groups whose two best are largest.
void read_choice(Keys& keys, MoeConfig& moe) {
  const std::string method = keys.string("topk_method", "greedy");
  const std::string scoring = keys.string("scoring_func", "softmax");
  if (scoring == "sigmoid") {
    moe.scoring = MoeGate::Scoring::sigmoid;
  } else if (scoring != "softmax") {
    keys.refuse("scoring_func", scoring, "softmax, sigmoid");
  }
  if (method == "noaux_tc") {
    moe.score_bias = true;
    moe.group_score = MoeGate::GroupScore::top2_sum;
  } else if (method != "greedy" && method != "group_limited_greedy") {
    keys.refuse("topk_method", method, "greedy, group_limited_greedy, noaux_tc");
  }
  if (method == "greedy") return;
  moe.groups = keys.integer("n_group");
  moe.kept_groups = keys.integer("topk_group");
}

void read_experts(Keys& keys, ModelConfig& config) {
  if (!keys.has("n_routed_experts")) return;
  MoeConfig moe;
  moe.experts = keys.integer("n_routed_experts");
  moe.shared_experts = keys.integer("n_shared_experts", 0);
  moe.experts_per_token = keys.integer("num_experts_per_tok");
  moe.intermediate = keys.integer("moe_intermediate_size");
  moe.first_layer = keys.integer("first_k_dense_replace", 0);
  moe.layer_step = keys.integer("moe_layer_freq", 1);
  moe.renormalise = keys.boolean("norm_topk_prob", false);
  moe.scale = static_cast<float>(keys.number("routed_scaling_factor", 1.0));
  read_choice(keys, moe);
  const bool sizes = moe.experts >= 1 && moe.experts <= 1024 && moe.groups >= 1 &&
                     moe.experts % moe.groups == 0 && moe.kept_groups >= 1 &&
                     moe.kept_groups <= moe.groups && moe.experts_per_token >= 1 &&
                     moe.experts_per_token <= moe.experts / moe.groups * moe.kept_groups &&
                     moe.layer_step >= 1 && moe.intermediate >= 1 && moe.shared_experts >= 0;
  if (!sizes) {
    keys.refuse(
        "n_routed_experts",
        fmt::format(
            "{} in {} groups, {} kept, {} per token",
            moe.experts,
            moe.groups,
            moe.kept_groups,
            moe.experts_per_token
        ),
        "up to 1024 experts in even groups, enough of them in the kept groups"
    );
  }
  config.moe = moe;
}

}  // namespace

void read_yarn(Keys& keys, RopeConfig& rope) {
  rope.scaling = RopeScaling::yarn;
  rope.factor = keys.number("factor");
  rope.original_context = keys.number("original_max_position_embeddings");
  rope.beta_fast = keys.number("beta_fast", 32.0);
  rope.beta_slow = keys.number("beta_slow", 1.0);
  rope.mscale = keys.number("mscale", 1.0);
  rope.mscale_all_dim = keys.number("mscale_all_dim", 0.0);
}

void read_deepseek(Keys& keys, ModelConfig& config) {
  read_attention(keys, config);
  read_experts(keys, config);
  config.nextn_layers = keys.integer("num_nextn_predict_layers", 0);
}

}  // namespace fathom::models
