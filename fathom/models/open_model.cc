#include "fathom/models/open_model.h"

#include <filesystem>
#include <string_view>

#include "fathom/base/json.h"
#include "fathom/base/mapped_file.h"
#include "fathom/weights/safetensors.h"

namespace fathom::models {
namespace {

Result<ModelConfig> read_config(const std::string& directory) {
  const std::string path = (std::filesystem::path(directory) / "config.json").string();
  Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok()) return file.error();
  const std::string_view text(
      reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()
  );
  Result<Json> json = parse_json(text, path);
  if (!json.ok()) return json.error();
  return parse_model_config(*json, path);
}

Result<OpenedModel> load(
    const ModelConfig& config, weights::Loader& loader, const ModelOptions& options
) {
  Result<std::unique_ptr<Model>> model = make_model(config);
  if (!model.ok()) return model.error();
  if (Result<void> loaded = (*model)->load(loader, options); !loaded.ok()) return loaded.error();
  Result<weights::WeightStore> store = loader.finish();
  if (!store.ok()) return store.error();
  return OpenedModel{config, std::move(*store), std::move(*model)};
}

// The flag's value that asks for quantised matrices; empty: none does.
std::string_view asked(const OpenOptions& options) {
  if (options.channels == weights::ChannelWeights::make_int8) return "w8a8_int8";
  if (options.channels == weights::ChannelWeights::make_fp8) return "w8a8_fp8";
  return options.fp8 == weights::Fp8Weights::make ? "fp8" : "";
}

// What quantization_config says; empty: nothing.
std::string_view stored(const ModelConfig& config) {
  if (config.fp8_blocks) return "fp8";
  if (config.int8_channels) return "int8";
  if (config.fp8_channels) return "fp8 per channel";
  return config.fp8_matrices ? "fp8 per tensor" : "";
}

// Why a checkpoint's matrices are not quantised on load, where it is asked. What is quantised so
// already may have other matrices.
Result<void> may_quantise(
    const ModelConfig& config, const std::string& path, const OpenOptions& options
) {
  const std::string_view made = asked(options), has = stored(config);
  if (made.empty() || has.empty()) return {};
  if (made == "w8a8_int8" && config.int8_channels) return {};
  if (made == "w8a8_fp8" && (config.fp8_channels || config.fp8_matrices)) return {};
  const bool values = made != "fp8" && config.fp8_blocks;
  if (values && options.fp8 != weights::Fp8Weights::keep) return {};
  return error(
      "--quantization {}: {} is quantised already (quantization_config says {}); leave the flag "
      "out{}",
      made,
      path,
      has,
      values ? ", or add --feature=-fp8_block_gemm to quantise the values of its codes anew" : ""
  );
}

// What the config says of the checkpoint's codes; random weights have none but what is made.
void describe_codes(const ModelConfig& config, bool dummy, weights::LoadOptions& to) {
  using weights::ChannelWeights;
  to.ue8m0 = config.ue8m0;
  const bool fp8 = config.fp8_channels || config.fp8_matrices;
  if (dummy) {
    if (to.channels != ChannelWeights::keep) return;
    if (config.int8_channels) to.channels = ChannelWeights::make_int8;
    if (fp8) to.channels = ChannelWeights::make_fp8;
  } else if (fp8) {
    using weights::Fp8Scales;
    to.fp8_scales = config.fp8_channels ? Fp8Scales::channels : Fp8Scales::matrix;
  }
}

}  // namespace

Result<OpenedModel> open_model(
    const std::string& path, const Exec& exec, MemoryLedger& ledger, const OpenOptions& options
) {
  weights::LoadOptions load_options{
      .fp8 = options.fp8, .channels = options.channels, .progress = options.progress};
  if (weights::is_gguf(path)) {
    if (const std::string_view made = asked(options); !made.empty())
      return error("--quantization {}: {} is a GGUF file, quantised its own way", made, path);
    Result<weights::GgufFile> file = weights::GgufFile::open(path);
    if (!file.ok()) return file.error();
    const Result<ModelConfig> config = parse_model_config(*file);
    if (!config.ok()) return config.error();
    Result<weights::WeightMap> map = file->weight_map();
    if (!map.ok()) return map.error();
    weights::Loader loader(std::move(*map), exec, ledger, load_options);
    return load(*config, loader, options.model);
  }
  const Result<ModelConfig> config = read_config(path);
  if (!config.ok()) return config.error();
  if (Result<void> may = may_quantise(*config, path, options); !may.ok()) return may.error();
  describe_codes(*config, options.dummy, load_options);
  if (options.dummy) {
    const weights::Dummy dummy{
        .seed = options.dummy_seed,
        .dtype = config->dtype,
        .fp8 = config->fp8_blocks && options.fp8 == weights::Fp8Weights::keep};
    weights::Loader loader(dummy, exec, ledger, load_options);
    return load(*config, loader, options.model);
  }
  Result<weights::WeightMap> map = weights::open_safetensors(path);
  if (!map.ok()) return map.error();
  weights::Loader loader(std::move(*map), exec, ledger, load_options);
  return load(*config, loader, options.model);
}

}  // namespace fathom::models
