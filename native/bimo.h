/* The plain C interface of the compiled core. Nothing here knows Python or torch; src/bimo/kernel.py loads it, and
   whoever calls checks what users give. Functions return 0 on success, or a BIMO_ code below. */
#ifndef BIMO_H
#define BIMO_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

enum { BIMO_OK = 0, BIMO_NO_MEMORY = 1, BIMO_WRONG_ARGUMENT = 2, BIMO_INCOMPLETE = 3 };

/* Instruction sets, best last. */
enum { BIMO_PLAIN = 0, BIMO_AVX2 = 1, BIMO_AVX512 = 2 };

/* How a matrix lies in memory when it is handed over: the block formats of GGUF, or plain numbers, row by row. */
enum { BIMO_F32, BIMO_F16, BIMO_BF16, BIMO_Q4_0, BIMO_Q4_1, BIMO_Q8_0, BIMO_Q4_K, BIMO_Q6_K, BIMO_FORMATS };

/* What a matrix or vector is for. Those of a layer first; the head may be left out, it is then the embedding, and so may
   the biases of queries, keys and values. */
enum {
    BIMO_QUERY, BIMO_KEY, BIMO_VALUE, BIMO_OUT, BIMO_GATE, BIMO_UP, BIMO_DOWN,
    BIMO_EMBEDDING, BIMO_HEAD, BIMO_MATRICES
};
enum {
    BIMO_ATTENTION_NORM, BIMO_FEED_FORWARD_NORM, BIMO_QUERY_NORM, BIMO_KEY_NORM,
    BIMO_QUERY_BIAS, BIMO_KEY_BIAS, BIMO_VALUE_BIAS, BIMO_LAST_NORM, BIMO_VECTORS
};

/* A Llama-, Qwen2- or Qwen3-shaped decoder; names as in ModelConfig. */
typedef struct {
    int32_t vocabulary, layers, width, heads, kv_heads, head_width, hidden, qk_norm;
    float norm_epsilon;
} bimo_shape;

typedef struct bimo_decoder bimo_decoder;

/* Goes up with every change of what stands in this file: kernel.py takes no library of another number. */
#define BIMO_INTERFACE 1
int bimo_interface(void);

/* The best instruction set that is both compiled in and on this processor. */
int bimo_best_instructions(void);

/* A decoder without weights and without room for sequences. NULL without memory. */
bimo_decoder *bimo_new(const bimo_shape *shape, int threads, int instructions);
void bimo_free(bimo_decoder *decoder);

/* Copies rows x columns in `format` into the order in which they will be read. Quantised columns come in whole blocks. */
int bimo_set_matrix(bimo_decoder *decoder, int which, int layer, int format, const void *data, int rows, int columns);
int bimo_set_vector(bimo_decoder *decoder, int which, int layer, const float *data, int length);

/* Room for `slots` sequences of `positions` each; what was remembered is forgotten. Keys and values are kept in numbers of
   `cache_bits`, 16 or 32. cosines, sines: [positions, head_width / 2]. */
int bimo_reserve(bimo_decoder *decoder, int slots, int positions, int cache_bits, const float *cosines, const float *sines);

/* Reads `rows` tokens at once: token i stands at positions[i] of slots[i], after all earlier positions of that slot;
   rows of one slot come in the order of their positions. Writes the logits [wanted, vocabulary] of the rows wanted_rows. */
int bimo_step(bimo_decoder *decoder, int rows, const int32_t *tokens, const int32_t *slots, const int32_t *positions,
              int wanted, const int32_t *wanted_rows, float *logits);

/* Slot `to` then remembers the first `positions` of slot `from`. */
int bimo_copy(bimo_decoder *decoder, int from, int to, int positions);

/* Bytes of all matrices as they lie in memory: what one token alone has to read. */
int64_t bimo_matrix_bytes(const bimo_decoder *decoder);

/* Bytes a second that `threads` read together from memory, best of a few rounds over more than any cache holds. */
double bimo_read_bandwidth(int threads);

/* What a training step does between matrix products. All return void and take `threads` first; T is float or, for
   BIMO_BF16, the upper half of one. A toward_weight [threads, width] is added to: a row for each thread. */
enum {
    BIMO_NORM,                  /* int64 rows, int width, float epsilon, T *x, float *weight, T *out */
    BIMO_NORM_BACKWARD,         /* int64 rows, int width, float epsilon, T *x, float *weight, T *gradient, T *toward_x,
                                   float *toward_weight */
    BIMO_TURNED_HEADS,          /* int64 sequences, int positions, int heads, int head_width, float epsilon, T *x,
                                   float *weight or NULL, float *cosines, float *sines, T *out */
    BIMO_TURNED_HEADS_BACKWARD, /* the same up to sines, T *gradient, T *toward_x, float *toward_weight or NULL */
    BIMO_GATED,                 /* int64 count, T *gate, T *up, T *out */
    BIMO_GATED_BACKWARD,        /* int64 count, T *gate, T *up, T *gradient, T *toward_gate, T *toward_up */
    BIMO_CAUSAL_SOFTMAX,        /* int64 matrices, int queries, int columns, int start, float scale, T *scores */
    BIMO_SOFTMAX_BACKWARD,      /* int64 rows, int columns, float scale, T *weights, T *gradient */
    BIMO_CROSS_ENTROPY,         /* int64 rows, int vocabulary, int64 *targets, T *logits, float *losses */
    BIMO_OPERATIONS
};

/* The function of an operation for numbers in `format`; NULL where the kernel was compiled without OpenMP, whose threads
   training shares with torch. */
const void *bimo_training(int instructions, int format, int operation);

/* Word vectors by negative sampling (Mikolov et al. 2013) with the parts of words (Bojanowski et al. 2017). The numbers of
   `inputs` and `outputs` are trained in place; a row has `stride` of them, whole registers, zeros at its end. */
typedef struct {
    float *inputs;                /* [words + parts, stride] */
    float *outputs;               /* [words, stride] */
    const int64_t *part_offsets;  /* [words + 1]: where the parts of each word begin in `parts` */
    const int32_t *parts;         /* rows of `inputs` */
    const uint32_t *keep;         /* [words]: the chance that an occurrence is read, of 2^32 - 1 */
    const uint32_t *alias_keep;   /* [words]: the alias method's chance of the place itself, of 2^32 - 1, */
    const int32_t *alias;         /* [words]: and the word that is drawn otherwise */
    int64_t done, total;          /* of all occurrences in all epochs; the rate falls with them from first to last */
    uint64_t seed;
    int32_t words, stride, window, negatives, cbow;
    float first_rate, last_rate;
} bimo_vectors;

/* Reads ids[count], sentences that end with -1, once. `done` is the number of ids that were read before. */
int bimo_train_vectors(const bimo_vectors *vectors, int threads, int instructions, const int32_t *ids, int64_t count);

/* The n-grams of one text as hashes, in the order in which they are met; as many as were written, at most
   bimo_most_grams(count). `cuts` is 1 where a Chinese word begins. See grams.h. */
int64_t bimo_most_grams(int64_t characters);
int64_t bimo_grams(const uint32_t *characters, const uint8_t *cuts, int64_t count, uint64_t *hashes);

/* A linear classifier over n-grams: where they stand in an open hash table, a power of two of slots of which some are
   free (their row is -1), looked for from hash >> 8 on. */
typedef struct {
    const uint64_t *hashes;  /* [slots] */
    const int32_t *rows;     /* [slots] */
    const uint8_t *kinds;    /* [features]: 1 for words, 0 for parts of them; each kind has a norm of its own */
    const float *rarity;     /* [features]: inverse document frequency */
    const float *weights;    /* [features, classes] */
    const float *biases;     /* [classes] */
    int64_t slots;
    int32_t features, classes;
} bimo_linear_model;

/* Scores [texts, classes] of texts that lie one after the other and end at ends[texts]. */
int bimo_linear(const bimo_linear_model *model, const uint32_t *characters, const uint8_t *cuts, const int64_t *ends,
                int64_t texts, float *scores);

/* A suffix automaton: the state 0 is the empty text, and of each state the characters that lead on are sorted. */
typedef struct {
    const int32_t *offsets;      /* [states + 1]: where those of each state begin in the two arrays that follow */
    const uint32_t *characters;
    const int32_t *next;         /* the state that each leads to */
    const int32_t *shorter;      /* [states]: the state of the longest suffix that is another state */
    const int32_t *length;       /* [states]: of the longest text that ends there */
} bimo_automaton;

/* Raises found[states] to the length of the longest run of the text that ends in each state. */
void bimo_walk_suffixes(const bimo_automaton *automaton, const uint32_t *characters, int64_t count, int32_t *found);

/* The tokens of a vocabulary as a tree of bytes, each node before all that are below it; the root is node 0. A walk
   through it along an automaton over bytes, whose state 0 leads nowhere. */
typedef struct {
    const uint8_t *bytes;   /* [nodes]: leads to each node */
    const int32_t *depths;  /* [nodes]: bytes from the root */
    const int32_t *behind;  /* [nodes]: the first node that is not below it */
    const int32_t *tokens;  /* [nodes + 1]: where the tokens that end in each node begin in `ids` */
    const int32_t *ids;     /* [tokens] */
    int32_t *states;        /* [deepest + 1]: on the way to `node`, the first of them before any byte */
    int32_t *allowed;       /* [tokens]: the tokens that were found to lead on, */
    int32_t *after;         /* [tokens]: and the state after each */
    int32_t nodes;
    int32_t node;           /* the next one, at first 1 */
    int32_t found;
} bimo_token_walk;

/* Goes on until the end, which is -1, or to a state whose row of table [states, 256] is needed and not `expanded`. */
int32_t bimo_walk_tokens(bimo_token_walk *walk, const int32_t *table, const uint8_t *expanded);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
