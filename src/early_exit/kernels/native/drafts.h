// Tokens that left early as drafts that full depth checks: what decoding/drafts.py does.
#pragma once

#include <vector>

#include "exits.h"

namespace early_exit {

class Drafts {
 public:
  Drafts(DecodedRows& rows, const Exits& exits) : rows_(rows), exits_(exits), loop_(rows.loop) {}

  // Takes the tokens in flight until they leave, or wait for full depth; runs a block where enough wait.
  void step();

 private:
  DecodedRows& rows_;
  const Exits& exits_;
  const Loop& loop_;

  // Of `waits`, beside the layer where a row's token in flight waits.
  static constexpr int32_t DRAFTING = -1, FINISHED = -2;

  int32_t* stands(int64_t slot) const { return loop_.stands + slot * loop_.max_draft; }
  int64_t& count(int64_t slot, int which) const { return loop_.counts[slot * 6 + which]; }
  void count_layers(const Front& front, int layers) const;

  int take(Front& front, std::vector<int64_t>& rows, std::vector<Left>& drafted);
  int next_stand(const std::vector<int64_t>& rows, int layer) const;
  void finish(int64_t slot);
  bool enough_wait() const;
  void block();
  void join(Front& front, const std::vector<int64_t>& rows, int layer) const;
  void ask(Front& front, const std::vector<float>& previous, std::vector<int64_t>& rows, int layer,
           std::vector<Left>& drafted, std::vector<float>& unasked);

  void settle(Front& front, const std::vector<int64_t>& rows);
  void settle_row(const Front& front, size_t first, size_t next, const std::vector<Top>& tops,
                  const std::vector<int64_t>& wanted);
  bool stays(const Top& full, int64_t draft) const;
  void drop(int64_t slot, int64_t number);
};

}  // namespace early_exit
