// Exit heads without attention: classifiers of a layer's state; see heads.py.
#pragma once

#include "layers.h"

namespace early_exit {

// The head of one layer. hidden: a product with max(0, ·) before the last one, or null; output: [features];
// norm_floor: √(d_model · ε), of the state's norm.
struct ExitHead {
  const Matrix* hidden;
  const float* output;
  float offset, norm_floor;
};

// Log-odds [items] that the exit agrees with full depth, of states [items, d_model].
void log_odds(Team& team, const ExitHead& head, int d_model, const float* states, int items, float* results);

}  // namespace early_exit
