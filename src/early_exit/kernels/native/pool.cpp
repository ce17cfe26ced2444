#include "pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace early_exit {
namespace {

constexpr int SPINS = 4000;  // a helper looks so often for a new phase before it sleeps: some 100 µs
using Clock = std::chrono::steady_clock;
constexpr auto PATIENCE = std::chrono::microseconds(500);
constexpr auto SHORT_REST = std::chrono::milliseconds(2), LONG_REST = std::chrono::milliseconds(64);
constexpr int MOST_CHUNKS = 0xffff;

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A phase's number, its number of chunks and the next chunk to be claimed are one word: a claim holds for the
// phase that it was read of, or fails.
struct Ticket {
  static uint64_t make(uint32_t phase, int chunks) { return (uint64_t)phase << 32 | (uint64_t)chunks << 16; }
  static uint32_t phase(uint64_t ticket) { return (uint32_t)(ticket >> 32); }
  static int chunks(uint64_t ticket) { return (int)(ticket >> 16 & MOST_CHUNKS); }
  static int next(uint64_t ticket) { return (int)(ticket & MOST_CHUNKS); }
};

struct Pool {
  std::mutex in_use;
  std::mutex sleeping;
  std::condition_variable wake;
  std::atomic<uint64_t> ticket{0};
  std::atomic<int> done{0};
  std::atomic<int> sleepers{0};
  std::atomic<int> wanted{0};  // helpers that may take part
  std::atomic<void (*)(const void*, int)> call{nullptr};
  std::atomic<const void*> what{nullptr};
  int helpers = 0;
  // Read and written by whoever has `in_use`. A helper that was put aside within a chunk has been waited for:
  // the machine is busy with something else. The caller then runs alone for a while, twice as long each time
  // until it goes well again.
  bool resting = false;
  Clock::time_point alone_until{};
  std::chrono::milliseconds rest = SHORT_REST;

  void disturbed() {
    resting = true;
    alone_until = Clock::now() + rest;
    rest = std::min(2 * rest, LONG_REST);
  }

  // Does a chunk of the phase under way. False where all are claimed.
  bool claim() {
    uint64_t seen = ticket.load(std::memory_order_acquire);
    while (Ticket::next(seen) < Ticket::chunks(seen)) {
      const auto function = call.load(std::memory_order_relaxed);
      const void* argument = what.load(std::memory_order_relaxed);
      if (ticket.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) {
        function(argument, Ticket::next(seen));
        done.fetch_add(1, std::memory_order_release);
        return true;
      }
    }
    return false;
  }

  void help(int number) {
    int idle = 0;
    while (true) {
      if (number < wanted.load(std::memory_order_relaxed) && claim()) {
        idle = 0;
      } else if (++idle < SPINS) {
        relax();
      } else {
        sleep(number);
        idle = 0;
      }
    }
  }

  void sleep(int number) {
    std::unique_lock<std::mutex> lock(sleeping);
    sleepers.fetch_add(1);
    const uint32_t phase = Ticket::phase(ticket.load());
    wake.wait(lock, [&] {
      return Ticket::phase(ticket.load()) != phase && number < wanted.load();
    });
    sleepers.fetch_sub(1);
  }

  void start(int number) {
    std::thread([this, number] { help(number); }).detach();
  }
};

// Never destroyed: helpers may sleep in it when the process ends.
Pool* pool = new Pool;

void after_fork() { pool = new Pool; }  // the child has no helpers, and locks may be held by who is gone

const int registered = pthread_atfork(nullptr, nullptr, after_fork);

}  // namespace

Team::Team(int threads) : threads_(threads) {
  if (threads_ < 2) return;
  has_helpers_ = pool->in_use.try_lock();
  if (!has_helpers_) {
    threads_ = 1;
    return;
  }
  while (pool->helpers < threads_ - 1) pool->start(pool->helpers++);
  pool->wanted.store(threads_ - 1);
}

Team::~Team() {
  if (has_helpers_) pool->in_use.unlock();
}

bool Team::rested() { return !pool->resting || Clock::now() >= pool->alone_until; }

void Team::share(int chunks, Call call, const void* what) {
  for (int first = 0; first < chunks; first += MOST_CHUNKS) {
    const int count = chunks - first < MOST_CHUNKS ? chunks - first : MOST_CHUNKS;
    struct Shifted {
      Call call;
      const void* what;
      int first;
    } shifted{call, what, first};
    pool->done.store(0, std::memory_order_relaxed);
    pool->what.store(&shifted, std::memory_order_relaxed);
    pool->call.store(
        [](const void* work, int chunk) {
          const auto* to = (const Shifted*)work;
          to->call(to->what, to->first + chunk);
        },
        std::memory_order_relaxed);
    const uint32_t phase = Ticket::phase(pool->ticket.load(std::memory_order_relaxed)) + 1;
    pool->ticket.store(Ticket::make(phase, count), std::memory_order_seq_cst);
    if (pool->sleepers.load(std::memory_order_seq_cst) > 0) {
      std::lock_guard<std::mutex> lock(pool->sleeping);
      pool->wake.notify_all();
    }
    const auto begin = Clock::now();
    int own = 0;
    while (pool->claim()) own++;
    const auto claimed = Clock::now();
    for (int spins = 0; pool->done.load(std::memory_order_acquire) < count; spins++) {
      relax();
      if (spins > SPINS) std::this_thread::yield();  // whoever has the last chunk may want this core
    }
    // Longer than any chunk should take: whoever has it was put aside.
    if (Clock::now() - claimed > PATIENCE + 4 * (claimed - begin) / std::max(own, 1)) {
      pool->disturbed();
    } else if (pool->resting) {
      pool->resting = false;
      pool->rest = SHORT_REST;
    }
  }
}

}  // namespace early_exit
