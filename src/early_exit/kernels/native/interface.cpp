// The C interface that library.py calls. Objects are made by ee_decoder and ee_encoder, get their matrices one by
// one, and are freed by ee_free_…; functions that may fail return 0 for success.
#include <exception>
#include <new>

#include "decoder.h"
#include "encoder.h"
#include "exit_head.h"
#include "loop.h"
#include "screen.h"

using namespace early_exit;

namespace {

enum Status { OK = 0, NO_MEMORY = 1, THERE_ALREADY = 2, NO_ROOM = 3, NAN_CONFIDENCE = 4 };

template <class Work>
int guarded(const Work& work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return NO_MEMORY;
  }
}

// By the order of the fields of `Layer`.
Matrix& matrix_of(Layer& layer, int which) {
  Matrix* const all[] = {&layer.queries,      &layer.keys,         &layer.values,       &layer.output,
                         &layer.cross_queries, &layer.cross_keys,   &layer.cross_values, &layer.cross_output,
                         &layer.inner,        &layer.gate,         &layer.outer};
  return *all[which];
}

}  // namespace

extern "C" {

Decoder* ee_decoder(const Sizes* sizes, int layers) {
  try {
    Decoder* decoder = new Decoder;
    decoder->sizes = *sizes;
    decoder->layers.resize(layers);
    return decoder;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void ee_free_decoder(Decoder* decoder) { delete decoder; }

int ee_set_decoder_matrix(Decoder* decoder, int layer, int which, int kind, const float* weights, int outputs,
                          int inputs) {
  return guarded([&] {
    matrix_of(decoder->layers[layer], which) = Matrix((Kind)kind, weights, outputs, inputs);
    return OK;
  });
}

int ee_set_head(Decoder* decoder, int kind, const float* weights, int outputs, int inputs) {
  return guarded([&] {
    decoder->head = Matrix((Kind)kind, weights, outputs, inputs);
    return OK;
  });
}

// The head that a decoder has, which lives as long.
const Matrix* ee_head(const Decoder* decoder) { return &decoder->head; }

int ee_run(const Decoder* decoder, int threads, const Items* items, float* states, int first, int last,
           const KVCache* cache, const SourceCache* sources) {
  return guarded([&] {
    Team team(threads);
    return run(team, *decoder, *items, states, first, last, *cache, *sources) ? OK : THERE_ALREADY;
  });
}

// head: the decoder's, or some rows of it; epsilon: of the norm before it. Also below.
int ee_logits(const Matrix* head, float epsilon, int threads, const float* states, int items, float* logits) {
  return guarded([&] {
    Team team(threads);
    read_head(team, *head, epsilon, states, items, logits);
    return OK;
  });
}

int ee_top(const Matrix* head, float epsilon, int threads, const float* states, int items, int64_t* tokens,
           float* responses) {
  return guarded([&] {
    Team team(threads);
    const std::vector<Top> tops = top(team, *head, epsilon, states, items, Sums::TOTAL);
    for (int item = 0; item < items; item++) {
      tokens[item] = tops[item].token;
      responses[item] = tops[item].response();
    }
    return OK;
  });
}

// limits may be null, where only tokens are asked for.
int ee_screened(const Screen* screen, int threads, float epsilon, const float* inputs, int items, const float* limits,
                int64_t* tokens, float* low, float* high, int64_t* candidates, uint8_t* fell_back) {
  return guarded([&] {
    Team team(threads);
    const std::vector<Screened> found = screened(team, *screen, epsilon, inputs, items, limits);
    for (int item = 0; item < items; item++) {
      tokens[item] = found[item].token;
      candidates[item] = found[item].candidates;
      fell_back[item] = found[item].fell_back;
      low[item] = found[item].low;
      high[item] = found[item].high;
    }
    return OK;
  });
}

int ee_log_odds(const ExitHead* head, int threads, int d_model, const float* states, int items, float* results) {
  return guarded([&] {
    Team team(threads);
    log_odds(team, *head, d_model, states, items, results);
    return OK;
  });
}

// layer: from 1.
int ee_attending_log_odds(const ExitHead* head, const HeadAttention* attention, int threads, int layer, int d_model,
                          const float* states, const Items* items, float* results) {
  return guarded([&] {
    Team team(threads);
    return log_odds(team, *head, *attention, layer, d_model, states, *items, results) ? OK : THERE_ALREADY;
  });
}

int ee_decode(const Decoder* decoder, int threads, const Loop* loop, const KVCache* cache,
              const SourceCache* sources) {
  return guarded([&] {
    Team team(threads);
    switch (decode(team, *decoder, *loop, *cache, *sources)) {
      case Stop::ENDED: return OK;
      case Stop::NO_ROOM: return NO_ROOM;
      case Stop::THERE_ALREADY: return THERE_ALREADY;
      case Stop::NAN_CONFIDENCE: return NAN_CONFIDENCE;
    }
    return OK;
  });
}

Matrix* ee_matrix(int kind, const float* weights, int outputs, int inputs) {
  try {
    return new Matrix((Kind)kind, weights, outputs, inputs);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void ee_free_matrix(Matrix* matrix) { delete matrix; }

// inputs: [items, inputs]; results: [items, outputs].
int ee_multiply(const Matrix* matrix, int threads, const float* inputs, int items, float* results) {
  return guarded([&] {
    Team team(threads);
    Prepared& prepared = scratch().inputs;
    prepare(team, prepared, *matrix, inputs, items);
    const Product product{matrix, {results, (size_t)matrix->outputs}};
    multiply_all(team, prepared, &product, 1);
    return OK;
  });
}

Encoder* ee_encoder(const Sizes* sizes, int layers, const float* final_norm) {
  try {
    Encoder* encoder = new Encoder;
    encoder->sizes = *sizes;
    encoder->layers.resize(layers);
    encoder->final_norm.assign(final_norm, final_norm + sizes->d_model);
    return encoder;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void ee_free_encoder(Encoder* encoder) { delete encoder; }

int ee_set_encoder_matrix(Encoder* encoder, int layer, int which, int kind, const float* weights, int outputs,
                          int inputs) {
  return guarded([&] {
    matrix_of(encoder->layers[layer], which) = Matrix((Kind)kind, weights, outputs, inputs);
    return OK;
  });
}

int ee_encode(const Encoder* encoder, int threads, float* states, const int64_t* starts, int sources,
              const float* const* biases, int longest) {
  return guarded([&] {
    Team team(threads);
    encode(team, *encoder, states, starts, sources, biases, longest);
    return OK;
  });
}

}
