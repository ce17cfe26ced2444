// Exit heads: classifiers of a layer's state, or of the states that a row's tokens had there so far; see heads.py.
#pragma once

#include "caches.h"

namespace early_exit {

// The head of one layer. projections: to 4 · inner, queries, keys, values and the token's own part, which attention is
// added to; keys_values: the second and third of them; null without attention. hidden: a product with max(0, ·) before
// the last one, or null; output: [features]; norm_floor: √(d_model · ε), of the state's norm.
struct ExitHead {
  const Matrix *projections, *keys_values, *hidden;
  const float* output;
  float offset, norm_floor;
};

// What the heads with attention have kept of the rows: a layer for each of them, exit states that are the decoder's.
struct HeadAttention {
  int32_t heads, head_dim;
  const KVCache* cache;
};

// Log-odds [items] that the exit agrees with full depth, of states [items, d_model], by a head without attention.
void log_odds(Team& team, const ExitHead& head, int d_model, const float* states, int items, float* results);

// The same by the head after a layer, from 1, with attention. False where an item is there already.
bool log_odds(Team& team, const ExitHead& head, const HeadAttention& attention, int layer, int d_model,
              const float* states, const Items& items, float* results);

}  // namespace early_exit
