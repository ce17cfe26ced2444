// Transformer layers, packed: what the decoder and the encoder share.
#pragma once

#include <cstdint>
#include <vector>

#include "matrix.h"

namespace early_exit {

enum class Activation : int32_t { RELU = 0, GELU = 1, GELU_TANH = 2, SILU = 3 };

// As `StackSpec` in interface.py.
struct Sizes {
  int32_t d_model, heads, head_dim, d_ff;
  Activation activation;
  int32_t gated;
  float norm_epsilon;
  int inner() const { return heads * head_dim; }
};

// Weights of norms are folded into the matrices after them.
struct Layer {
  Matrix queries, keys, values, output;
  Matrix cross_queries, cross_keys, cross_values, cross_output;  // of a decoder
  Matrix inner, gate, outer;                                     // of the feed-forward; a gate where there is one
};

// Rows that products go to: item i's results start at base + i · stride. With `add`, they are added to what is
// there.
struct Rows {
  float* base;
  size_t stride;
  bool add = false;
};

struct Product {
  const Matrix* matrix;
  Rows to;
};

// All products read the same inputs.
void multiply_all(Team& team, const Prepared& inputs, const Product* products, int count);

// The inputs of products from states [items, d_model]: normed, or as they are.
void prepare_normed(Team& team, Prepared& inputs, const Matrix& matrix, const float* states, int items,
                    float epsilon);
void prepare(Team& team, Prepared& inputs, const Matrix& matrix, const float* values, int items);
// What the norm multiplies a state with, its weights left out.
float norm_factor(const float* state, int width, float epsilon);

// Those of the feed-forward's second product: activated inner states [items, d_ff], times the gate's.
void prepare_activated(Team& team, Prepared& inputs, const Matrix& matrix, float* inner, const float* gate,
                       int items, Activation activation);

// Memory of a call, kept for the next one of the same thread.
struct Scratch {
  Prepared inputs;
  std::vector<float> queries, keys, values, attended, inner, gate, states, scores;
};
Scratch& scratch();

// The feed-forward, added to the states [items, d_model].
void feed_forward(Team& team, const Sizes& sizes, const Layer& layer, float* states, int items);

}  // namespace early_exit
