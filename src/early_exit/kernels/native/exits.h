// Where items leave and with which token: what `Exits` of decoding/exits.py asks, for the measures of loop.h.
#pragma once

#include <cmath>
#include <vector>

#include "rows.h"

namespace early_exit {

struct Decision {
  bool leaves = false;
  float confidence = NAN;
  float most = NAN;    // what it may be at most, where only bounds are known
  int64_t token = -1;  // where the LM head was read
};

// A token in flight that has left. token: −1 before it is found.
struct Left {
  int64_t slot;
  int layer;
  float confidence;
  int64_t token;
};

class Exits {
 public:
  explicit Exits(const DecodedRows& rows) : rows_(rows), loop_(rows.loop) {}

  // The next layer after which some item may leave.
  int next_stop(const Front& front, int layer) const;

  // Runs items through layers. previous: gets their states before the last one, where the measure compares them.
  void through(Front& front, int first, int last, std::vector<float>* previous) const;

  // The next layer where every item is to be shown to `remember`; the last one where there is none.
  int next_remembered(int layer) const;

  // Keeps what later questions after this layer need of items: of all, or of those that ask nothing there.
  void remember(const Front& front, int layer, bool all) const;

  // For the items that ask; the others stay.
  std::vector<Decision> decide(const Front& front, int layer, const std::vector<float>& previous) const;

  // Adds an item that leaves to the others; its state to those whose token is to be found.
  void note(std::vector<Left>& left, std::vector<float>& unasked, const Front& front, size_t item, int layer,
            const Decision& decision) const;

  // Finds the tokens of rows that left without a question to the LM head; states: of these, in order of their
  // layers; overwritten by what the exits read.
  void find_tokens(std::vector<Left>& left, std::vector<float>& states) const;

  // What full depth chooses in the place of items, whose states have come through all layers; wanted: a token of
  // each whose logit is asked for, or −1; empty where none is.
  std::vector<Top> full_depth(const std::vector<float>& states, int items, Sums sums,
                              const std::vector<int64_t>& wanted) const;

 private:
  const DecodedRows& rows_;
  const Loop& loop_;

  int planned(int64_t slot) const;
  bool asks_after(int layer) const;
  int next_asked(int layer) const;
  double decay(int64_t slot) const;
  float limit(int64_t slot) const;
  void confidences(const Front& front, int layer, const std::vector<size_t>& asking,
                   const std::vector<float>& previous, std::vector<Decision>& decisions) const;
  void lm_head_confidences(const Front& front, int layer, const std::vector<size_t>& asking,
                           std::vector<Decision>& decisions) const;
  std::vector<float> head_confidences(const Front& front, int layer, const std::vector<size_t>& chosen) const;
  void similarities(const Front& front, const std::vector<size_t>& asking, const std::vector<float>& previous,
                    std::vector<Decision>& decisions) const;
  const Matrix& lm_head() const;
  float epsilon() const { return rows_.decoder.sizes.norm_epsilon; }
  std::vector<Screened> ask_screen(const float* states, int items, const float* limits) const;
  bool is_listed(int layer) const;
  void adapt(float* states, int items, int layer) const;
  std::vector<Top> early_tops(const std::vector<float>& states, int items, Sums sums,
                              std::vector<int64_t> wanted = {}) const;
  std::vector<Top> all_tops(const float* states, int items, Sums sums, const std::vector<int64_t>& wanted = {}) const;
};

}  // namespace early_exit
