// Greedy decoding without a way back to Python between tokens: what decoding/exits.py and decoding/drafts.py do,
// for the measures below and texts that end by a token or by their length.
#pragma once

#include <cstdint>

#include "decoder.h"
#include "exit_head.h"
#include "screen.h"

namespace early_exit {

enum class Measure : int32_t { NONE = 0, SOFTMAX = 1, SOFTMAX_MAX = 2, SATURATION = 3, EXIT_HEAD = 4, ENTROPY = 5 };
enum class Verify : int32_t { NONE = 0, PARALLEL = 1, ROLLBACK = 2, EXACT = 3, LENIENT = 4 };

// The rows and the policy. Arrays are of slots unless something else is said.
struct Loop {
  int64_t slots;
  // `Rows` of decoding/rows.py.
  const int64_t* prompt;
  int64_t *token, *position, *layer, *step;
  const float* embedding;  // [vocabulary, d_model]
  // The policy.
  Measure measure;
  Verify verify;
  int32_t min_layer, max_layer, last_layer, max_draft;
  double limit;         // of verification: accept_ratio, or rollback_threshold
  double temperature;   // of the positional decay, negative for none
  const double* thresholds;
  const int64_t* planned;  // [slots, planned_steps], or null
  int64_t planned_steps;
  const ExitHead* exit_heads;  // [last_layer − 1], or null
  const HeadAttention* head_attention;  // of exit heads that attend, or null
  // Rows of the LM head that exits below full depth choose from, and which tokens these are; or null. And whether
  // full depth chooses from them too.
  const Matrix* shortlist;
  const int64_t* shortlisted;
  int64_t shortlist_at_full_depth;
  const Matrix* const* adapters;  // of the exits below full depth, or null
  const Screen* screen;           // through which the LM head is read for tokens, or null
  int64_t screens_response;       // and for softmax response
  int64_t* screened;              // [3]: how often it was asked, candidates where it knew, and how often it did not
  int64_t max_new_tokens;
  const int64_t* ends;  // [number_of_ends]
  int64_t number_of_ends;
  int64_t enough;
  double block_share;  // of the rows that have to wait before a block of drafts runs
  // The texts: [slots, max_new_tokens]. Extremes as in `DecodedRow`.
  int64_t *tokens, *exit_layers;
  float* confidences;
  double *max_stay, *min_exit;
  // Of drafts: stands [slots, max_draft], by rising position; counts [slots, 6] in the order of `Drafting`,
  // and the number of those dropped; dropped [slots, max_new_tokens · max_draft, 2], place and token.
  // since: drafts after the last token that full depth chose; waits: the layer where the token in flight waits for a
  // block, −1 where it does not, −2 where none is in flight since the last draft ends the text.
  int32_t* stands;
  int32_t* drafts;
  int32_t* since;
  int32_t* waits;
  int64_t* counts;
  int32_t* dropped;
  uint8_t* ended;
};

enum class Stop { ENDED, NO_ROOM, THERE_ALREADY, NAN_CONFIDENCE };

// Decodes until the text of a row ends, or a row needs more room in the cache.
Stop decode(Team& team, const Decoder& decoder, const Loop& loop, const KVCache& cache,
            const SourceCache& sources);

}  // namespace early_exit
