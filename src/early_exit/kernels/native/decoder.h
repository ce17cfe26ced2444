// A decoder: items through layers, and its LM head.
#pragma once

#include <cstdint>
#include <vector>

#include "layers.h"

namespace early_exit {

// `KVCache` of decoding/kv_cache.py. Keys and values of a layer: [2, slots, heads, capacity, head_dim], in
// bfloat16 if `half`. filled: [layers, slots]. exit_states: [slots, capacity, d_model].
struct KVCache {
  void** layers;
  int64_t* filled;
  float* exit_states;
  const float** biases;  // of each layer: [heads, capacity], the largest distance first; or null
  int64_t slots, capacity;
  int32_t half;
};

// `SourceCache` of the same file. of_slot: [slots]; filled: [layers, slots]; states: [slots, capacity, d_model].
struct SourceCache {
  void** layers;
  uint8_t* filled;
  const int64_t* lengths;
  const int64_t* of_slot;
  const float* states;
  int64_t slots, capacity;
};

// slots, positions: [count].
struct Items {
  int count;
  const int64_t* slots;
  const int64_t* positions;
};

struct Decoder {
  Sizes sizes;
  std::vector<Layer> layers;
  Matrix head;
};

// Runs layers first + 1 to last on the states [items, d_model], in place. False where an item is there already.
bool run(Team& team, const Decoder& decoder, const Items& items, float* states, int first, int last,
         const KVCache& cache, const SourceCache& sources);

// logits: [items, head.outputs], of the decoder's head or of some of its rows.
void read_head(Team& team, const Decoder& decoder, const Matrix& head, const float* states, int items,
               float* logits);

// What an item's logits come to: the likeliest token, the first of equals, its logit and the next one; the sum of
// all exponentials in units of the first's, where it was asked for; and the logit of a token that was. NaN in a
// logit gives NaN.
struct Top {
  float first, second, total, wanted;
  int64_t token;
  float response() const;
};
std::vector<Top> top(Team& team, const Decoder& decoder, const Matrix& head, const float* states, int items,
                     bool totals, const int64_t* wanted = nullptr);

}  // namespace early_exit
