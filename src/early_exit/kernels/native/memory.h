// Memory of weights.
#pragma once

#include <cstddef>
#include <memory>

namespace early_exit {

// A piece of a block that others may have pieces of; the block is freed with the last one.
struct Release {
  std::shared_ptr<void> block;
  void operator()(void*) const {}
};
template <class Value>
using Memory = std::unique_ptr<Value[], Release>;

// Zeros, aligned to a cache line, in large pages where the system has them: weights are read through once for
// every token, and with pages of 4 KiB a tenth to a fifth of that time goes into looking pages up.
template <class Value>
Memory<Value> zeros(size_t count);

}  // namespace early_exit
