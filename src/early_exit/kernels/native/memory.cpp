#include "memory.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace early_exit {
namespace {

constexpr size_t LARGE_PAGE = (size_t)1 << 21, LINE = 64;

size_t up_to_multiple(size_t number, size_t of) { return (number + of - 1) / of * of; }

// Where small pieces are cut from.
struct Block {
  std::shared_ptr<void> memory;
  size_t size = 0, used = 0;
};

#if defined(__SANITIZE_ADDRESS__)  // sees the end of a block, not of a piece: they are one then
constexpr size_t WHOLE = LINE;
#else
constexpr size_t WHOLE = LARGE_PAGE;
#endif

Block new_block(size_t size) {
  size = up_to_multiple(size, WHOLE);
  void* memory = std::aligned_alloc(WHOLE, size);
  if (memory == nullptr) throw std::bad_alloc();
#if defined(__linux__)
  madvise(memory, size, MADV_HUGEPAGE);  // a wish
#endif
  return {std::shared_ptr<void>(memory, free), size, 0};
}

}  // namespace

template <class Value>
Memory<Value> zeros(size_t count) {
  static std::mutex lock;
  static Block current;
  const size_t bytes = up_to_multiple(count * sizeof(Value), LINE) + LINE;  // vectors may read past the end
  std::lock_guard<std::mutex> guard(lock);
  if (current.used + bytes > current.size) {
    Block fresh = new_block(bytes);
    // Whichever has more room left is cut from next.
    if (fresh.size - bytes < current.size - current.used) {
      memset(fresh.memory.get(), 0, bytes);
      Value* own = (Value*)fresh.memory.get();
      return Memory<Value>(own, Release{std::move(fresh.memory)});
    }
    current = std::move(fresh);
  }
  char* own = (char*)current.memory.get() + current.used;
  current.used += bytes;
  memset(own, 0, bytes);
  return Memory<Value>((Value*)own, Release{current.memory});
}
template Memory<char> zeros(size_t);
template Memory<uint8_t> zeros(size_t);

}  // namespace early_exit
