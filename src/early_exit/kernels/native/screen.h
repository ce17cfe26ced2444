// The LM head in float32, read through a coarse copy: its tokens and exits for a fraction of its bytes.
//
// All logits are computed with the head rounded to int8, the few that are large are computed again exactly, and what
// the others can amount to is bounded. Where the bounds settle the question, that is the whole head's answer;
// otherwise the whole head is computed for that item.
//
// The bounds. Let w and ŵ be a token's row of the head, exact and rounded, x and x̂ the input. A logit is off by at
// most e = ‖w − ŵ‖·‖x‖ + ‖ŵ‖·‖x − x̂‖ (Cauchy–Schwarz). The probability mass M = Σ p of the tokens that are not
// computed again, in units of the likeliest, is off by Σ p·(exp(ε) − 1) with |ε| <= e. Its first-order part Σ p·ε is
// at most Σ p·e; but also, since ε = (W − Ŵ)x but for the input's rounding, at most ‖p‖·‖W − Ŵ‖·‖x‖ with the spectral
// norm, which is far less where the mass is spread over many tokens. The rest is never negative, and at most
// Σ p·(exp(e) − 1 − e).
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "layers.h"

namespace early_exit {

struct Screen {
  const Matrix* exact;      // float32
  const Matrix* coarse;     // int8
  const float* row_errors;  // ‖w − ŵ‖ of each token
  float largest_row_error, largest_row;  // of these, and of ‖ŵ‖
  float error_norm;                      // ‖W − Ŵ‖; infinite where only tokens are asked for
};

// token: the likeliest. Softmax response is between low and high; both NaN where only tokens were asked for.
// candidates: how many logits were computed exactly.
struct Screened {
  int64_t token = 0;
  float low = NAN, high = NAN;
  int64_t candidates = 0;
  bool fell_back = false;  // the whole head was computed
};

// inputs: [items, inputs], normed with `epsilon` where that is not negative. limits: [items], which low and high are on
// one side of: low > limit, or high <= limit; or null where only tokens are asked for.
std::vector<Screened> screened(Team& team, const Screen& screen, float epsilon, const float* inputs, int items,
                               const float* limits);

}  // namespace early_exit
