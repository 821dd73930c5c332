// The safetensors format: 8 bytes of header length (little endian), a JSON header of name -> dtype,
// shape, data_offsets, then the data. Every number is checked against the file's size.
#pragma once

#include <map>
#include <span>
#include <string>

#include "fathom/weights/weight_map.h"

namespace fathom::weights {

// The tensors of one file's bytes, offsets from the start of the file; `file` stays 0. `source`
// names the file in messages.
Result<std::map<std::string, WeightEntry>> parse_safetensors(
    std::span<const std::byte> bytes, const std::string& source
);

// All safetensors files of a HF directory: those that model.safetensors.index.json names, else
// model.safetensors.
Result<WeightMap> open_safetensors(const std::string& directory);

}  // namespace fathom::weights
