// Loader: hands a checkpoint's tensors to the layers that ask for them, by name and shape, in the
// form that the kernels want, and keeps one copy of each: a matrix with a packed CPU layout is
// packed once and the mapped pages it came from are dropped; everything else stays where it is
// mapped. For a GPU every tensor is copied there: FP8 matrices and the experts of an MoE layer as
// tiles (ops/gemm/weight_tiles.h), other matrices as plain BF16.
//
// A tensor that is missing or of another shape or dtype is noted, an undefined Tensor returned, and
// finish() gives the Error, so that load functions read straight through. finish() also refuses a
// checkpoint with tensors that nobody took.
//
// Thread rule: one thread; packing uses exec's pool.
#pragma once

#include <functional>
#include <initializer_list>
#include <set>
#include <string>
#include <vector>

#include "fathom/core/buffer.h"
#include "fathom/core/exec.h"
#include "fathom/plan/topology.h"
#include "fathom/weights/device_upload.h"
#include "fathom/weights/dummy.h"
#include "fathom/weights/weight_map.h"

namespace fathom::weights {

// A prefix of tensor names: Scope("model") / "layers" / 3 / "mlp".
class Scope {
 public:
  explicit Scope(std::string path) : path_(std::move(path)) {}
  Scope operator/(std::string_view name) const {
    return Scope(path_.empty() ? std::string(name) : fmt::format("{}.{}", path_, name));
  }
  Scope operator/(int64_t index) const { return *this / std::to_string(index); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Which part of a matrix [N, K] this tensor-parallel rank keeps: all of it, its share of the rows,
// or its share of the columns.
enum class Shard : uint8_t { none, rows, columns };

// One of several matrices over the same input.
struct Part {
  Scope name;
  int64_t rows = 0;
};

struct Progress {
  int64_t bytes_done = 0;
  int64_t bytes_total = 0;  // 0: not known (random weights)
};

// Which scales the checkpoint's FP8 matrices (e4m3) have, as its config says: <name>_scale_inv, an
// f32 per 128x128 block; <name>_scale, a float per row; one for the whole matrix.
enum class Fp8Scales : uint8_t { blocks, channels, matrix };

// What becomes of FP8 matrices with scales of blocks: kept as
// they are, for products with quantised activations; or turned into the f32 values they stand for.
// make: kept, and the other matrices of layers become such, but for those of Precision::checkpoint,
// with a bias, or with rows that are no multiple of 128.
enum class Fp8Weights : uint8_t { keep, dequantise, make };

// What becomes of matrices with a scale per row (i8 with <name>_scale; FP8 by Fp8Scales, one scale
// for all rows being the same for each), which the checkpoint may hold for products alone, i8 for
// nothing else: kept as they are, for products with quantised activations; or turned into the f32
// values they stand for, as are those whose inner size has no packed layout. make: kept, and the
// float matrices of products become such, but for those of Precision::checkpoint.
enum class ChannelWeights : uint8_t { keep, dequantise, make_int8, make_fp8 };

// products: the matrix may be quantised on load; biased: likewise, but its product has a bias,
// which FP8's have not; checkpoint: it is used as it is (routers).
enum class Precision : uint8_t { products, biased, checkpoint };

struct LoadOptions {
  plan::Topology topology = {};
  Fp8Weights fp8 = Fp8Weights::keep;
  Fp8Scales fp8_scales = Fp8Scales::blocks;
  ChannelWeights channels = ChannelWeights::keep;
  bool ue8m0 = false;  // FP8 scales, of weights and activations, are powers of two
  std::function<void(const Progress&)> progress = {};  // after each tensor, on the loading thread
};

// What the weights stand on; outlives every Tensor that the loader gave.
struct WeightStore {
  std::vector<MappedFile> files;
  std::vector<Buffer> buffers;
};

class Loader {
 public:
  // `exec` and `ledger` must outlive the loader; `ledger` the WeightStore too.
  Loader(WeightMap map, const Exec& exec, MemoryLedger& ledger, LoadOptions options = {});
  // Random weights of any name and shape that is asked for.
  Loader(const Dummy& dummy, const Exec& exec, MemoryLedger& ledger, LoadOptions options = {});

  // True when the checkpoint has the tensor; random weights have none that is optional.
  bool has(const Scope& name) const { return map_.find(name.path()) != nullptr; }

  // A matrix [N, K] for products, this rank's part, packed where a packed layout exists; then
  // dim(0) is N rounded up.
  QTensor take(const Scope& name, std::initializer_list<int64_t> shape, Shard shard = Shard::none);
  // Matrices over the same K = `columns`, for one product: a single matrix of all rows one after
  // another where their packed layouts allow it and `join` is asked, else each for itself, in
  // order.
  std::vector<QTensor> take_parts(
      const std::vector<Part>& parts,
      int64_t columns,
      Precision precision = Precision::products,
      bool join = true
  );
  // E matrices over the same K = `columns` as one [E, N, K], each made of its parts' rows one after
  // another; packed where a packed layout exists, then N is rounded up. FP8 parts need rows that
  // are multiples of 128; their scales become [E, N / 128, ceil(K / 128)], those per row [E,
  // N].
  QTensor take_stack(const std::vector<std::vector<Part>>& matrices, int64_t columns);
  // The values of a matrix as f32 in memory of its own, for deriving another from.
  Tensor take_values(const Scope& name, std::initializer_list<int64_t> shape);
  // An FP8 matrix of whole blocks, as it is or made on load, codes and scales, for deriving another
  // from; undefined where FP8 is not kept or the matrix is of another dtype, which is then still to
  // be taken.
  QTensor take_codes(const Scope& name, int64_t rows, int64_t columns);
  Tensor values_of(const QTensor& codes);
  // FP8 blocks made of a float matrix of the checkpoint, for products that may round more than its
  // own (drafts); undefined where FP8 is not kept, on a GPU, and where there are no whole blocks.
  QTensor take_rounded(const Scope& name, int64_t rows, int64_t columns);
  // A matrix in memory of make() as products want it: packed where a packed layout exists.
  Tensor adopt(const Tensor& matrix) { return place(matrix); }
  // Gives back what take_values(), take_codes() or make() gave.
  void discard(const Tensor& made) { release(made); }
  // A matrix as it is in the file, for reading rows.
  Tensor take_rows(const Scope& name, std::initializer_list<int64_t> shape);
  // A small vector (norm, bias), as f32; several one after another.
  Tensor take_vector(const Scope& name, int64_t size);
  Tensor take_vectors(const std::vector<Part>& parts);
  // A tensor that the checkpoint may carry and nobody needs.
  void ignore(const Scope& name) { taken_.insert(name.path()); }
  // All tensors whose names begin with the scope.
  void ignore_all(const Scope& scope);

  // Zeroed host memory for what a model derives from weights or config (rope tables), to be written
  // and then given to publish() or adopt(): the tensor that kernels may read.
  Tensor make(DType dtype, std::initializer_list<int64_t> dims);
  Tensor publish(const Tensor& made);

  Device device() const { return exec_.device; }
  // Products of FP8 matrices quantise their activations with power-of-two scales.
  bool ue8m0() const { return options_.ue8m0; }

  // Everything taken stands on the returned store. The Error names what was missing, wrong or left
  // over.
  Result<WeightStore> finish();

 private:
  // The bytes of a tensor of this shape, dtype of the file; undefined and noted when there is none.
  // `codes`: it may have codes with a scale per row; FP8 of that kind comes as values without.
  Tensor source(const Scope& name, std::initializer_list<int64_t> shape, bool codes = false);
  Tensor mapped(
      const Scope& name, const WeightEntry& entry, std::initializer_list<int64_t> shape, bool codes
  );
  Tensor generated(const Scope& name, std::initializer_list<int64_t> shape);
  // The scales of an FP8 or int8 matrix [N, K]; undefined for other dtypes.
  Tensor scale_of(const Scope& name, const Tensor& matrix);
  Tensor channel_scales(const Scope& name, int64_t rows);
  Tensor scalar(const Scope& name);  // of a tensor of no dimensions that is there, as [1]
  Tensor dequantised(const Scope& name, const Tensor& matrix);
  QTensor quantised(const Tensor& matrix);
  // A matrix with a scale per row as the options want it; one made of a float matrix, and its
  // codes' type: f32 where none is to be made.
  QTensor channel_source(const Scope& name, const Tensor& matrix);
  QTensor quantised_channels(const Tensor& matrix);
  DType channel_codes() const;
  bool has_channel_products(DType codes, int64_t columns) const;
  // True for codes that have a scale per row in this checkpoint.
  bool has_channel_codes(DType dtype) const {
    return dtype == DType::i8 ||
           (dtype == DType::f8e4m3 && options_.fp8_scales != Fp8Scales::blocks);
  }
  // A matrix for products, as the options want it.
  QTensor product_source(const Part& part, int64_t columns, Precision precision);
  QTensor joined(const std::vector<QTensor>& parts, int64_t rows, int64_t columns);
  // For the scales of E matrices like this one.
  Tensor make_scales(const QTensor& part, int64_t E, int64_t rows, int64_t columns);
  Tensor cut(const Scope& name, const Tensor& source, Shard shard);
  Tensor allocate(Tensor t);
  // Host memory for what stays (packed matrices, vectors): small ones share buffers, which large
  // pages then hold.
  Tensor make_shared(DType dtype, std::initializer_list<int64_t> dims);
  Tensor host_vector(const Scope& name, int64_t size);
  // Packs a matrix where a packed layout exists, else gives it back.
  Tensor place(const Tensor& source);
  // A matrix, or rows of one, copied to the GPU.
  Tensor to_device(const Tensor& source);
  void upload(const Tensor& source, const Tensor& to);
  std::vector<QTensor> parts_on_device(
      const std::vector<Part>& parts, int64_t columns, Precision precision, bool join
  );
  QTensor joined_on_device(const std::vector<QTensor>& parts, int64_t rows, int64_t columns);
  QTensor stack_on_device(const std::vector<std::vector<Part>>& matrices, int64_t columns);
  // Random FP8 weights of a product.
  QTensor generated_fp8(const Part& part, int64_t columns);
  void pack(const Tensor& source, const Tensor& packed);
  // A source that will not be read again: its mapped pages are dropped, a generated one is freed.
  void release(const Tensor& source);
  void note(std::string message);
  void report(const Tensor& source);

  const Exec& exec_;
  MemoryLedger& ledger_;
  LoadOptions options_;
  WeightMap map_;
  std::optional<Dummy> dummy_;
  WeightStore store_;
  std::byte* shared_at_ = nullptr;  // what is left of the last shared buffer
  int64_t shared_left_ = 0;
  std::set<std::string> taken_;
  std::vector<std::string> problems_;
  Progress progress_;
  DeviceUpload upload_;
};

}  // namespace fathom::weights
