// Word vectors: one walk over a stretch of text. Included once for each instruction set, inside its namespace, after its
// lanes. src/bimo/vectors/reference.py is the same walk in numpy, with the same random numbers.
//
// Several threads write to the same vectors without waiting for each other (Recht et al. 2011, Hogwild): words that two
// of them hold at once are few, and what is lost then is one small step. One thread alone repeats bit for bit.

// Each sentence has numbers of its own (SplitMix64, Steele et al. 2014), whichever thread reads it.
struct Random {
    std::uint64_t state;

    Random(std::uint64_t seed, std::int64_t sentence) : state(seed + std::uint64_t(sentence) * 0xd1342543de82ef95) { next(); }
    std::uint64_t next() {
        std::uint64_t z = state += 0x9e3779b97f4a7c15;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return z ^ (z >> 31);
    }
    std::uint32_t below(std::uint32_t end) { return std::uint32_t((next() >> 32) * end >> 32); }
};

class VectorWalk {
  public:
    explicit VectorWalk(const bimo_vectors &v)
        : v(v), hidden(v.stride), gradient(v.stride) {}

    // Sentences that begin in ids[first .. end), which end with -1.
    void run(const std::int32_t *ids, std::int64_t first, std::int64_t end, std::int64_t count) {
        std::int64_t at = first;
        while (at > 0 && at < end && ids[at - 1] >= 0) at++;  // whoever has the beginning has the sentence
        while (at < end) {
            std::int64_t stop = at;
            while (stop < count && ids[stop] >= 0) stop++;
            sentence(ids + at, stop - at, v.done + at);
            at = stop + 1;
        }
    }

  private:
    const bimo_vectors &v;
    std::vector<float> hidden, gradient, scores;
    std::vector<std::int32_t> kept, rows, outputs;

    float *input(std::int32_t row) const { return v.inputs + std::size_t(row) * v.stride; }
    float *output(std::int32_t word) const { return v.outputs + std::size_t(word) * v.stride; }

    void sentence(const std::int32_t *ids, std::int64_t length, std::int64_t place) {
        Random random(v.seed, place);
        const float rate = v.first_rate + (v.last_rate - v.first_rate) * float(double(place) / double(v.total));
        kept.clear();
        for (std::int64_t i = 0; i < length; i++)
            if (std::uint32_t(random.next() >> 32) <= v.keep[ids[i]]) kept.push_back(ids[i]);
        const int words = int(kept.size());
        for (int i = 0; i < words; i++) {
            const int reach = 1 + int(random.below(v.window));
            const int from = std::max(0, i - reach), to = std::min(words - 1, i + reach);
            if (from == to) continue;
            rows.clear(), outputs.clear();
            if (v.cbow) {
                for (int j = from; j <= to; j++)
                    if (j != i) add_rows(kept[j]);
                outputs.push_back(kept[i]);
            } else {
                add_rows(kept[i]);
                for (int j = from; j <= to; j++)
                    if (j != i) outputs.push_back(kept[j]);
            }
            const int positives = int(outputs.size());
            for (int j = 0; j < positives; j++)
                for (int k = 0; k < v.negatives; k++) {
                    const std::int32_t word = negative(random);
                    if (word == outputs[j]) continue;
                    outputs.push_back(word);
                    prefetch(output(word));
                }
            step(positives, rate);
        }
    }

    // The rows of the inputs whose mean stands for a word: its own and those of its parts.
    void add_rows(std::int32_t word) {
        rows.push_back(word);
        for (std::int64_t i = v.part_offsets[word]; i < v.part_offsets[word + 1]; i++) rows.push_back(v.parts[i]);
    }

    // By the alias method (Walker 1977).
    std::int32_t negative(Random &random) const {
        const std::uint64_t bits = random.next();
        const std::int32_t place = std::int32_t((bits >> 32) * std::uint64_t(v.words) >> 32);
        return std::uint32_t(bits) <= v.alias_keep[place] ? place : v.alias[place];
    }

    // Logistic regression of the first `positives` outputs against the others, from the mean of the rows.
    void step(int positives, float rate) {
        const int width = v.stride, count = int(outputs.size());
        const Lanes share = Lanes::all(1.0f / float(rows.size()));
        for (int d = 0; d < width; d += BAND) {
            Lanes sum = Lanes::load(input(rows[0]) + d);
            for (std::size_t i = 1; i < rows.size(); i++) sum = sum + Lanes::load(input(rows[i]) + d);
            (sum * share).store(&hidden[d]);
        }
        scores.resize(round_up(count, BAND));
        for (int k = 0; k < count; k++) {
            const float *out = output(outputs[k]);
            Lanes sum = Lanes::load(&hidden[0]) * Lanes::load(out);
            for (int d = BAND; d < width; d += BAND) sum = multiply_add(Lanes::load(&hidden[d]), Lanes::load(out + d), sum);
            scores[k] = sum.sum();
        }
        const Lanes one = Lanes::all(1), zero = Lanes::all(0);
        for (int k = 0; k < count; k += BAND) {
            const Lanes chance = one / (one + exponential(zero - Lanes::load(&scores[k])));
            (Lanes::all(-rate) * chance).store(&scores[k]);
        }
        for (int k = 0; k < positives; k++) scores[k] += rate;
        std::fill(gradient.begin(), gradient.end(), 0.0f);
        for (int k = 0; k < count; k++) {
            float *out = output(outputs[k]);
            const Lanes size = Lanes::all(scores[k]);
            for (int d = 0; d < width; d += BAND) {
                const Lanes vector = Lanes::load(out + d);
                multiply_add(size, vector, Lanes::load(&gradient[d])).store(&gradient[d]);
                multiply_add(size, Lanes::load(&hidden[d]), vector).store(out + d);
            }
        }
        for (const std::int32_t row : rows) {
            float *in = input(row);
            for (int d = 0; d < width; d += BAND) (Lanes::load(in + d) + Lanes::load(&gradient[d])).store(in + d);
        }
    }
};

void vectors(const bimo_vectors &v, const std::int32_t *ids, std::int64_t first, std::int64_t end, std::int64_t count) {
    VectorWalk(v).run(ids, first, end, count);
}
