#include "fathom/weights/safetensors.h"

#include <array>
#include <cstring>
#include <filesystem>
#include <set>
#include <string_view>

#include "fathom/base/json.h"

namespace fathom::weights {
namespace {

constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxHeader = size_t{100} << 20;  // the format's own limit
constexpr int64_t kMaxElements = int64_t{1} << 48;

struct NamedType {
  std::string_view name;
  DType dtype;
};
constexpr std::array<NamedType, 8> kTypes = {{
    {"F32", DType::f32},
    {"F16", DType::f16},
    {"BF16", DType::bf16},
    {"F8_E4M3", DType::f8e4m3},
    {"I8", DType::i8},
    {"U8", DType::u8},
    {"I32", DType::i32},
    {"I64", DType::i64},
}};

Result<DType> parse_type(const Json& value, const std::string& what) {
  if (!value.is_string()) return error("{}: dtype is not a string", what);
  const std::string text = value.get<std::string>();
  for (const NamedType& type : kTypes) {
    if (type.name == text) return type.dtype;
  }
  return error(
      "{}: dtype {} is not supported; supported are F32, F16, BF16, F8_E4M3, I8, U8, I32, I64",
      what,
      text
  );
}

// A list of non-negative integers, their product bounded.
Result<std::vector<int64_t>> parse_shape(const Json& value, const std::string& what) {
  if (!value.is_array()) return error("{}: shape is not a list", what);
  std::vector<int64_t> shape;
  int64_t elements = 1;
  for (const Json& dim : value) {
    if (!dim.is_number_unsigned()) return error("{}: shape holds {}", what, dim.dump());
    const auto size = dim.get<uint64_t>();
    if (size > static_cast<uint64_t>(kMaxElements) ||
        (size > 0 && elements > kMaxElements / static_cast<int64_t>(size))) {
      return error("{}: shape {} is too large", what, value.dump());
    }
    shape.push_back(static_cast<int64_t>(size));
    elements *= shape.back();
  }
  return shape;
}

Result<WeightEntry> parse_entry(
    const Json& value, size_t data_begin, size_t file_bytes, const std::string& what
) {
  if (!value.is_object()) return error("{}: its entry is no object", what);
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!value.contains(key)) return error("{}: {} is missing", what, key);
  }
  WeightEntry entry;
  const Result<DType> dtype = parse_type(value["dtype"], what);
  if (!dtype.ok()) return dtype.error();
  Result<std::vector<int64_t>> shape = parse_shape(value["shape"], what);
  if (!shape.ok()) return shape.error();
  const Json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned()) {
    return error("{}: data_offsets is {}, not two numbers", what, offsets.dump());
  }
  const auto begin = offsets[0].get<uint64_t>(), end = offsets[1].get<uint64_t>();
  const size_t data_bytes = file_bytes - data_begin;
  if (begin > end || end > data_bytes) {
    return error(
        "{}: bytes {} to {} of {} bytes of data: the file is truncated or damaged",
        what,
        begin,
        end,
        data_bytes
    );
  }
  int64_t elements = 1;
  for (const int64_t dim : *shape) elements *= dim;
  const auto bytes = static_cast<uint64_t>(bytes_of(*dtype, elements));
  if (end - begin != bytes) {
    return error("{}: {} bytes where its dtype and shape take {}", what, end - begin, bytes);
  }
  entry.dtype = *dtype;
  entry.shape = std::move(*shape);
  entry.offset = data_begin + begin;
  entry.bytes = bytes;
  return entry;
}

// The names of the files of a sharded checkpoint.
Result<std::set<std::string>> indexed_files(const std::string& index_path) {
  Result<MappedFile> file = MappedFile::open(index_path);
  if (!file.ok()) return file.error();
  const std::string_view text(
      reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()
  );
  Result<Json> json = parse_json(text, index_path);
  if (!json.ok()) return json.error();
  if (!json->is_object() || !json->contains("weight_map") || !(*json)["weight_map"].is_object()) {
    return error("{}: weight_map is missing", index_path);
  }
  std::set<std::string> names;
  for (const auto& [tensor, name] : (*json)["weight_map"].items()) {
    if (!name.is_string() || name.get<std::string>().find('/') != std::string::npos) {
      return error("{}: {} is in {}, not a file name", index_path, tensor, name.dump());
    }
    names.insert(name.get<std::string>());
  }
  return names;
}

}  // namespace

Result<std::map<std::string, WeightEntry>> parse_safetensors(
    std::span<const std::byte> bytes, const std::string& source
) {
  if (bytes.size() < kLengthBytes) {
    return error("{}: {} bytes, too short for a safetensors file", source, bytes.size());
  }
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), kLengthBytes);
  if (header > bytes.size() - kLengthBytes || header > kMaxHeader) {
    return error(
        "{}: header of {} bytes in a file of {}: truncated, or not a safetensors file",
        source,
        header,
        bytes.size()
    );
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, header);
  Result<Json> json = parse_json(text, source, {.bytes = kMaxHeader, .depth = 8});
  if (!json.ok()) return json.error();
  if (!json->is_object()) return error("{}: the header is no JSON object", source);
  std::map<std::string, WeightEntry> entries;
  for (const auto& [name, value] : json->items()) {
    if (name == "__metadata__") continue;
    Result<WeightEntry> entry = parse_entry(
        value, kLengthBytes + header, bytes.size(), fmt::format("{}: tensor {}", source, name)
    );
    if (!entry.ok()) return entry.error();
    entries.emplace(name, std::move(*entry));
  }
  return entries;
}

Result<WeightMap> open_safetensors(const std::string& directory) {
  const std::filesystem::path root(directory);
  const std::string index = (root / "model.safetensors.index.json").string();
  std::set<std::string> names = {"model.safetensors"};
  if (std::filesystem::exists(index)) {
    Result<std::set<std::string>> listed = indexed_files(index);
    if (!listed.ok()) return listed.error();
    names = std::move(*listed);
  } else if (!std::filesystem::exists(root / "model.safetensors")) {
    return error(
        "{}: neither model.safetensors nor model.safetensors.index.json is there", directory
    );
  }
  WeightMap map;
  for (const std::string& name : names) {
    Result<MappedFile> file = MappedFile::open((root / name).string());
    if (!file.ok()) return file.error();
    auto entries = parse_safetensors(file->bytes(), file->path());
    if (!entries.ok()) return entries.error();
    const size_t number = map.add_file(std::move(*file));
    for (auto& [tensor, entry] : *entries) {
      entry.file = number;
      if (Result<void> added = map.add(tensor, std::move(entry)); !added.ok()) return added.error();
    }
  }
  return map;
}

}  // namespace fathom::weights
