#include "fathom/runtime/step_memory.h"

namespace fathom::runtime {

Result<void> StepMemory::allocate(MemoryLedger& ledger, Device device) {
  device_ = device;
  const int64_t bytes = std::max<int64_t>(bytes_, 1);
  Result<HostBlock> first = HostBlock::allocate(ledger, device, bytes);
  if (!first) return first.error();
  blocks_[0] = std::move(*first);
  if (device.is_cpu()) {
    blocks_[1] = blocks_[0].view();
    device_base_ = host_base(0);
    return {};
  }
  Result<HostBlock> second = HostBlock::allocate(ledger, device, bytes);
  if (!second) return second.error();
  blocks_[1] = std::move(*second);
  Result<Buffer> memory = Buffer::allocate(ledger, device, bytes, Purpose::staging);
  if (!memory) return memory.error();
  memory_ = std::move(*memory);
  device_base_ = static_cast<uint8_t*>(memory_.data());
  return {};
}

}  // namespace fathom::runtime
