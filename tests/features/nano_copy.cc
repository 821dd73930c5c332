#include "nano_copy.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "fathom/weights/safetensors.h"

namespace fathom::testing {
namespace {

namespace fs = std::filesystem;

void write_file(const fs::path& path, const StoredTensors& tensors) {
  Json header = Json::object();
  size_t at = 0;
  for (const auto& [name, t] : tensors) {
    header[name] = {
        {"dtype", t.dtype}, {"shape", t.shape}, {"data_offsets", {at, at + t.bytes.size()}}};
    at += t.bytes.size();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(&length), sizeof(length));
  out << text;
  for (const auto& [name, t] : tensors) out << t.bytes;
  CHECK(out.good(), "{} cannot be written", path.string());
}

StoredTensors rewritten(const Rewrite& rewrite) {
  const Result<weights::WeightMap> map = weights::open_safetensors(kNano.string());
  CHECK(map.ok(), "{}", map.error().message);
  StoredTensors tensors;
  for (const auto& [name, entry] : map->entries()) {
    const auto raw = map->bytes(entry);
    if (entry.dtype == DType::f8e4m3) {
      const weights::WeightEntry* scales = map->find(name + "_scale_inv");
      CHECK(scales != nullptr, "{} has no scales", name);
      // Of a mapped file: aligned only as its header left it.
      std::vector<float> aligned(scales->bytes / sizeof(float));
      std::memcpy(aligned.data(), map->bytes(*scales).data(), scales->bytes);
      const Fp8Matrix matrix{
          entry.shape[0],
          entry.shape[1],
          reinterpret_cast<const uint8_t*>(raw.data()),
          aligned.data()};
      rewrite(name, matrix, tensors);
    } else if (!name.ends_with("_scale_inv")) {
      tensors[name] = {
          entry.dtype == DType::bf16 ? "BF16" : "F32",
          entry.shape,
          {reinterpret_cast<const char*>(raw.data()), raw.size()}};
    }
  }
  return tensors;
}

}  // namespace

float coarse(float scale) {
  int exponent = 0;
  return std::ldexp(std::floor(std::frexp(scale, &exponent) * 16), exponent - 4);
}

void as_bf16(const std::string& name, const Fp8Matrix& m, StoredTensors& to) {
  std::vector<uint16_t> values;
  values.reserve(static_cast<size_t>(m.N * m.K));
  for (int64_t n = 0; n < m.N; ++n) {
    for (int64_t k = 0; k < m.K; ++k) values.push_back(float_to_bf16(m.value(n, k)));
  }
  to[name] = {"BF16", {m.N, m.K}, bytes_of(values)};
}

void as_coarse_bf16(const std::string& name, const Fp8Matrix& m, StoredTensors& to) {
  std::vector<uint16_t> values;
  values.reserve(static_cast<size_t>(m.N * m.K));
  for (int64_t n = 0; n < m.N; ++n) {
    for (int64_t k = 0; k < m.K; ++k) {
      const float value = f8e4m3_to_float(m.codes[n * m.K + k]) * coarse(m.scales[m.block(n, k)]);
      values.push_back(float_to_bf16(value));
      CHECK(bf16_to_float(values.back()) == value, "{} is not whole in BF16", value);
    }
  }
  to[name] = {"BF16", {m.N, m.K}, bytes_of(values)};
}

NanoCopy::NanoCopy(const Rewrite& rewrite, const std::function<void(Json& config)>& configure) {
  std::string form = (fs::temp_directory_path() / "fathom-nano-XXXXXX").string();
  CHECK(::mkdtemp(form.data()) != nullptr, "{} cannot be made", form);
  path_ = form;
  for (const char* file : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"})
    fs::copy_file(kNano / file, path_ / file);
  Json config = Json::parse(std::ifstream(kNano / "config.json"));
  configure(config);
  std::ofstream(path_ / "config.json") << config.dump();
  write_file(path_ / "model.safetensors", rewritten(rewrite));
}

NanoCopy::~NanoCopy() {
  fs::remove_all(path_);
}

}  // namespace fathom::testing
