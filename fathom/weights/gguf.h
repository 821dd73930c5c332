// The GGUF format, versions 2 and 3, little endian: metadata (key -> typed value), tensor infos,
// aligned tensor data. Every count, length and offset is checked against the file's size.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "fathom/base/mapped_file.h"
#include "fathom/weights/weight_map.h"

namespace fathom::weights {

// Value types by their numbers in the file.
enum class GgufType : uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  string,
  array,
  u64,
  i64,
  f64,
};

// An array as its bytes in the file, checked to hold `count` elements.
struct GgufArray {
  GgufType element = GgufType::u8;
  uint64_t count = 0;
  std::span<const std::byte> bytes;
};

using GgufValue = std::variant<bool, int64_t, uint64_t, double, std::string_view, GgufArray>;

// Views into the file's bytes.
struct GgufIndex {
  std::map<std::string, GgufValue, std::less<>> metadata;
  std::map<std::string, WeightEntry> tensors;  // names as in the file; shapes outermost first
};

// True when `path` names a GGUF file, by its first bytes.
bool is_gguf(const std::string& path);

// `source` names the file in messages.
Result<GgufIndex> parse_gguf(std::span<const std::byte> bytes, const std::string& source);

// A mapped file with its index. Values and arrays stay valid as long as it lives.
class GgufFile {
 public:
  static Result<GgufFile> open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const GgufIndex& index() const { return index_; }

  // A metadata value, empty when the key is missing or of another type. Integers of any width are
  // integers; numbers are integers too.
  std::optional<int64_t> integer(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<std::string_view> string(std::string_view key) const;
  // Elements of an array; empty when the key is missing or the elements are of another type.
  std::vector<std::string_view> strings(std::string_view key) const;
  std::vector<int64_t> integers(std::string_view key) const;
  std::vector<float> floats(std::string_view key) const;

  // The tensors under their HF names, over a mapping of its own.
  Result<WeightMap> weight_map() const;

 private:
  const GgufValue* find(std::string_view key) const;

  MappedFile file_;
  GgufIndex index_;
};

// The HF name of a GGUF tensor ("blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight");
// empty when there is none.
std::string hf_name(std::string_view gguf_name);

}  // namespace fathom::weights
