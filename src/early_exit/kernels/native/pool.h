// Threads of our own. Work of a phase is claimed in chunks: a helper that the system has put aside has claimed
// nothing, so nobody waits for it.
#pragma once

#include <cstdint>

namespace early_exit {

// Up to how many threads a call may use. One call at a time has the helpers; others run alone.
class Team {
 public:
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;

  // work(chunk) for every chunk from 0, in any order and on any thread; returns when all are done. `effort` is
  // about how many thousand multiplications it is in all: little is done by the caller alone.
  template <class Work>
  void each(int chunks, double effort, const Work& work) {
    if (threads_ < 2 || chunks < 2 || effort < WORTH_SHARING || !rested()) {
      for (int chunk = 0; chunk < chunks; chunk++) work(chunk);
      return;
    }
    share(chunks, [](const void* what, int chunk) { (*(const Work*)what)(chunk); }, &work);
  }

  int threads() const { return threads_; }

 private:
  static constexpr double WORTH_SHARING = 64;
  using Call = void (*)(const void*, int);
  bool rested();  // whether it is time to try again with the helpers
  void share(int chunks, Call call, const void* what);
  int threads_;
  bool has_helpers_ = false;
};

}  // namespace early_exit
