// A decoder: items through layers, and its LM head.
#pragma once

#include <cstdint>
#include <vector>

#include "caches.h"

namespace early_exit {

struct Decoder {
  Sizes sizes;
  std::vector<Layer> layers;
  Matrix head;
};

// Runs layers first + 1 to last on the states [items, d_model], in place. False where an item is there already.
bool run(Team& team, const Decoder& decoder, const Items& items, float* states, int first, int last,
         const KVCache& cache, const SourceCache& sources);

// logits: [items, head.outputs] of states, by the LM head or some of its rows. epsilon: of the norm before it.
void read_head(Team& team, const Matrix& head, float epsilon, const float* states, int items, float* logits);

// Which sums over all exponentials are asked for.
enum class Sums { NONE, TOTAL, ENTROPY };

// What an item's logits come to: the likeliest token, the first of equals, its logit and the next one; where they were
// asked for, the sum of all exponentials e in units of the first's, and of e · log e; and the logit of a token that
// was. NaN in a logit gives NaN.
struct Top {
  float first, second, total, information, wanted;
  int64_t token;
  float response() const;
  float negentropy(int tokens) const;  // 1 − entropy / log(tokens), within [0, 1]
};
std::vector<Top> top(Team& team, const Matrix& head, const Prepared& inputs, Sums sums,
                     const int64_t* wanted = nullptr);
std::vector<Top> top(Team& team, const Matrix& head, float epsilon, const float* states, int items, Sums sums,
                     const int64_t* wanted = nullptr);

}  // namespace early_exit
