#include <cmath>
#include <cstring>
#include <exception>
#include <vector>

#include "bimo.h"
#include "grams.h"

using namespace bimo;

// No more than this many of a character: a word by itself, the word with the one before, and four or five n-grams; a
// letter's two edges begin n-grams as well.
static constexpr std::int64_t MOST_GRAMS = 16;

extern "C" {

int64_t bimo_most_grams(int64_t characters) { return MOST_GRAMS * characters; }

int64_t bimo_grams(const uint32_t *characters, const uint8_t *cuts, int64_t count, uint64_t *hashes) {
    uint64_t *at = hashes;
    grams::each(characters, cuts, count, [&](uint64_t hash) { *at++ = hash; });
    return at - hashes;
}

int bimo_linear(const bimo_linear_model *m, const uint32_t *characters, const uint8_t *cuts, const int64_t *ends,
                int64_t texts, float *scores) {
    try {
        const int classes = m->classes;
        std::vector<int32_t> counts(m->features), met;
        const uint64_t mask = uint64_t(m->slots) - 1;
        int64_t start = 0;
        for (int64_t text = 0; text < texts; text++) {
            grams::each(characters + start, cuts + start, ends[text] - start, [&](uint64_t hash) {
                for (uint64_t slot = (hash >> 8) & mask; m->rows[slot] >= 0; slot = (slot + 1) & mask)
                    if (m->hashes[slot] == hash) {
                        if (!counts[m->rows[slot]]++) met.push_back(m->rows[slot]);
                        break;
                    }
            });
            start = ends[text];
            float squares[2] = {0, 0}, *out = scores + text * classes;
            for (const int32_t row : met) {
                const float value = (1 + std::log(float(counts[row]))) * m->rarity[row];
                squares[m->kinds[row]] += value * value;
            }
            float scales[2];
            for (int kind = 0; kind < 2; kind++) scales[kind] = squares[kind] > 0 ? 1 / std::sqrt(squares[kind]) : 0;
            std::memcpy(out, m->biases, classes * sizeof(float));
            for (const int32_t row : met) {
                const float value = (1 + std::log(float(counts[row]))) * m->rarity[row] * scales[m->kinds[row]];
                const float *weights = m->weights + int64_t(row) * classes;
                for (int k = 0; k < classes; k++) out[k] += value * weights[k];
                counts[row] = 0;
            }
            met.clear();
        }
        return BIMO_OK;
    } catch (const std::exception &) {
        return BIMO_NO_MEMORY;
    }
}
}
