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

// Why a checkpoint's matrices are not quantised on load, where it is asked.
Result<void> may_quantise(
    const ModelConfig& config, const std::string& path, const OpenOptions& options
) {
  const bool makes_fp8 = options.fp8 == weights::Fp8Weights::make;
  const bool makes_int8 = options.int8 == weights::Int8Weights::make;
  if (makes_fp8 && (config.fp8_blocks || config.int8_channels)) {
    return error(
        "--quantization fp8: {} is quantised already (quantization_config says {}); leave the flag "
        "out",
        path,
        config.fp8_blocks ? "fp8" : "int8"
    );
  }
  if (makes_int8 && config.fp8_blocks && options.fp8 == weights::Fp8Weights::keep) {
    return error(
        "--quantization w8a8_int8: {} is quantised already (quantization_config says fp8); leave "
        "the flag out, or add --feature=-fp8_block_gemm to quantise the values of its codes anew",
        path
    );
  }
  return {};
}

}  // namespace

Result<OpenedModel> open_model(
    const std::string& path, const Exec& exec, MemoryLedger& ledger, const OpenOptions& options
) {
  weights::LoadOptions load_options{
      .fp8 = options.fp8, .int8 = options.int8, .progress = options.progress};
  if (weights::is_gguf(path)) {
    const bool makes_fp8 = options.fp8 == weights::Fp8Weights::make;
    if (makes_fp8 || options.int8 == weights::Int8Weights::make) {
      return error(
          "--quantization {}: {} is a GGUF file, quantised its own way",
          makes_fp8 ? "fp8" : "w8a8_int8",
          path
      );
    }
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
  load_options.ue8m0 = config->ue8m0;
  if (options.dummy) {
    if (config->int8_channels && options.int8 == weights::Int8Weights::keep)
      load_options.int8 = weights::Int8Weights::make;
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
