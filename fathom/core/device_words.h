// The device words of an Exec that every kernel finds zero and leaves zero: its semaphores, and
// behind them the mail, in which CTAs send each other what they have summed (ops/device/mail.cuh).
#pragma once

#include "fathom/core/exec.h"

namespace fathom {

inline constexpr int kMailWords = 3 << 20;
inline constexpr int kDeviceWords = Exec::kSemaphoreWords + kMailWords;
inline constexpr int64_t kDeviceWordBytes = int64_t{kDeviceWords} * sizeof(uint32_t);

inline uint32_t* mail_of(const Exec& exec) {
  return exec.semaphores + Exec::kSemaphoreWords;
}

}  // namespace fathom
