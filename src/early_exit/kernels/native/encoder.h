// An encoder: sources of any lengths side by side, without padding.
#pragma once

#include <cstdint>
#include <vector>

#include "layers.h"

namespace early_exit {

struct Encoder {
  Sizes sizes;
  std::vector<Layer> layers;
  std::vector<float> final_norm;  // [d_model]
};

// states: [tokens, d_model], embedded; becomes the encoder's output. starts: [sources + 1], where each source
// begins. biases: of each layer [heads, 2 · longest − 1], of keys from longest − 1 before to as many after; or
// null.
void encode(Team& team, const Encoder& encoder, float* states, const int64_t* starts, int sources,
            const float* const* biases, int longest);

}  // namespace early_exit
