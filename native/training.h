// What stands between the matrix products of a training step, forward and backward: one pass over memory each, in float32
// whatever the numbers are kept in. Included once for each instruction set, inside its namespace: loops over neighbouring
// numbers are left to the compiler to spread over lanes.

// A number in bfloat16: the upper half of a float32.
struct BFloat16 { std::uint16_t bits; };

inline float get(float x) { return x; }
inline float get(BFloat16 x) { return std::bit_cast<float>(std::uint32_t(x.bits) << 16); }
inline void put(float &place, float x) { place = x; }
inline void put(BFloat16 &place, float x) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
    place.bits = std::uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);   // to the nearest, ties to even
}

// a * b + c, rounded once where the processor can: elsewhere std::fma would be a call for each number.
inline float multiply_add(float a, float b, float c) {
#ifdef __FMA__
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

// e^x to two units in the last place for -87 <= x <= 87; as in attention.h, one number at a time.
inline float exponential_of(float x) {
    x = std::min(std::max(x, -87.0f), 87.0f);
    constexpr float SHIFT = 12582912.0f;   // 1.5 * 2^23: a number to which it was added has no fraction left
    const float shifted = multiply_add(x, 1.44269504f, SHIFT), whole = shifted - SHIFT;
    const float rest = multiply_add(whole, 2.12194440e-4f, multiply_add(whole, -0.693359375f, x));
    float series = 1.0f / 720;
    series = multiply_add(series, rest, 1.0f / 120);
    series = multiply_add(series, rest, 1.0f / 24);
    series = multiply_add(series, rest, 1.0f / 6);
    series = multiply_add(series, rest, 0.5f);
    series = multiply_add(series, rest, 1.0f);
    series = multiply_add(series, rest, 1.0f);
    // The last bits of the shifted number are the whole one: as an exponent, it multiplies by that power of two.
    return std::bit_cast<float>(std::bit_cast<std::int32_t>(series) + (std::bit_cast<std::int32_t>(shifted) << 23));
}

// work(member, first, end) for even shares of `count`, one for each thread.
template <class Work> void in_shares(int threads, std::int64_t count, Work work) {
#pragma omp parallel num_threads(threads)
    {
#ifdef _OPENMP
        const std::int64_t members = omp_get_num_threads(), member = omp_get_thread_num();
#else
        const std::int64_t members = 1, member = 0;
#endif
        work(int(member), count * member / members, count * (member + 1) / members);
    }
}

// 1 / sqrt(mean(x^2) + epsilon)
template <class T> float norm_scale(const T *x, int width, float epsilon) {
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int i = 0; i < width; i++) squares += get(x[i]) * get(x[i]);
    return 1 / std::sqrt(squares / width + epsilon);
}

template <class T>
void norm(int threads, std::int64_t rows, int width, float epsilon, const T *x, const float *weight, T *out) {
    in_shares(threads, rows, [=](int, std::int64_t first, std::int64_t end) {
        for (std::int64_t row = first; row < end; row++) {
            const T *in = x + row * width;
            T *to = out + row * width;
            const float scale = norm_scale(in, width, epsilon);
#pragma omp simd
            for (int i = 0; i < width; i++) put(to[i], get(in[i]) * scale * weight[i]);
        }
    });
}

template <class T>
void norm_backward(int threads, std::int64_t rows, int width, float epsilon, const T *x, const float *weight,
                   const T *gradient, T *toward_x, float *toward_weight) {
    in_shares(threads, rows, [=](int member, std::int64_t first, std::int64_t end) {
        float *own = toward_weight + std::int64_t(member) * width;
        for (std::int64_t row = first; row < end; row++) {
            const T *in = x + row * width, *from = gradient + row * width;
            T *to = toward_x + row * width;
            const float scale = norm_scale(in, width, epsilon);
            float along = 0;
#pragma omp simd reduction(+ : along)
            for (int i = 0; i < width; i++) {
                const float product = get(from[i]) * get(in[i]) * scale;
                own[i] += product;
                along += product * weight[i];
            }
            along *= scale / width;
#pragma omp simd
            for (int i = 0; i < width; i++) put(to[i], scale * (get(from[i]) * weight[i] - get(in[i]) * along));
        }
    });
}

// x [B, T, H, K] -> out [B, H, T, K], each head normalised if there is a weight [K], then turned by its position's angles
// [T, K], of which the first half is read.
template <class T>
void turned_heads(int threads, std::int64_t sequences, int positions, int heads, int K, float epsilon, const T *x, const float *weight,
                  const float *cosines, const float *sines, T *out) {
    const int half = K / 2;
    in_shares(threads, sequences * positions, [=](int, std::int64_t first, std::int64_t end) {
        for (std::int64_t row = first; row < end; row++) {
            const std::int64_t sequence = row / positions, position = row % positions;
            const float *cosine = cosines + position * K, *sine = sines + position * K;
            for (int head = 0; head < heads; head++) {
                const T *in = x + (row * heads + head) * K;
                T *to = out + ((sequence * heads + head) * positions + position) * K;
                const float scale = weight ? norm_scale(in, K, epsilon) : 1;
#pragma omp simd
                for (int i = 0; i < half; i++) {
                    const float a = get(in[i]) * scale * (weight ? weight[i] : 1);
                    const float b = get(in[i + half]) * scale * (weight ? weight[i + half] : 1);
                    put(to[i], a * cosine[i] - b * sine[i]);
                    put(to[i + half], b * cosine[i] + a * sine[i]);
                }
            }
        }
    });
}

template <class T>
void turned_heads_backward(int threads, std::int64_t sequences, int positions, int heads, int K, float epsilon, const T *x,
                           const float *weight, const float *cosines, const float *sines, const T *gradient, T *toward_x,
                           float *toward_weight) {
    const int half = K / 2;
    in_shares(threads, sequences * positions, [=](int member, std::int64_t first, std::int64_t end) {
        float *own = weight ? toward_weight + std::int64_t(member) * K : nullptr;
        for (std::int64_t row = first; row < end; row++) {
            const std::int64_t sequence = row / positions, position = row % positions;
            const float *cosine = cosines + position * K, *sine = sines + position * K;
            for (int head = 0; head < heads; head++) {
                const T *in = x + (row * heads + head) * K;
                const T *from = gradient + ((sequence * heads + head) * positions + position) * K;
                T *to = toward_x + (row * heads + head) * K;
                if (!weight) {
#pragma omp simd
                    for (int i = 0; i < half; i++) {
                        const float a = get(from[i]), b = get(from[i + half]);
                        put(to[i], a * cosine[i] + b * sine[i]);
                        put(to[i + half], b * cosine[i] - a * sine[i]);
                    }
                    continue;
                }
                const float scale = norm_scale(in, K, epsilon);
                float along = 0;
#pragma omp simd reduction(+ : along)
                for (int i = 0; i < half; i++) {
                    const float a = get(from[i]), b = get(from[i + half]);
                    const float first_product = (a * cosine[i] + b * sine[i]) * get(in[i]) * scale;
                    const float second_product = (b * cosine[i] - a * sine[i]) * get(in[i + half]) * scale;
                    own[i] += first_product;
                    own[i + half] += second_product;
                    along += first_product * weight[i] + second_product * weight[i + half];
                }
                along *= scale / K;
#pragma omp simd
                for (int i = 0; i < half; i++) {
                    const float a = get(from[i]), b = get(from[i + half]);
                    put(to[i], scale * ((a * cosine[i] + b * sine[i]) * weight[i] - get(in[i]) * along));
                    put(to[i + half], scale * ((b * cosine[i] - a * sine[i]) * weight[i + half] - get(in[i + half]) * along));
                }
            }
        }
    });
}

// gate / (1 + e^-gate) * up
template <class T> void gated(int threads, std::int64_t count, const T *gate, const T *up, T *out) {
    in_shares(threads, count, [=](int, std::int64_t first, std::int64_t end) {
#pragma omp simd
        for (std::int64_t i = first; i < end; i++) {
            const float x = get(gate[i]);
            put(out[i], x / (1 + exponential_of(-x)) * get(up[i]));
        }
    });
}

template <class T>
void gated_backward(int threads, std::int64_t count, const T *gate, const T *up, const T *gradient, T *toward_gate,
                    T *toward_up) {
    in_shares(threads, count, [=](int, std::int64_t first, std::int64_t end) {
#pragma omp simd
        for (std::int64_t i = first; i < end; i++) {
            const float x = get(gate[i]), from = get(gradient[i]);
            const float open = 1 / (1 + exponential_of(-x));
            put(toward_up[i], from * x * open);
            put(toward_gate[i], from * get(up[i]) * open * (1 + x * (1 - open)));
        }
    });
}

struct Exponentials { float top, sum; };

// out = e^(scale (x - top)), where top is the largest x, and the sum of that; scale > 0.
template <class T> Exponentials exponentials(const T *x, int length, float scale, float *out) {
    float top = -INFINITY, sum = 0;
#pragma omp simd reduction(max : top)
    for (int i = 0; i < length; i++) top = std::max(top, get(x[i]));
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < length; i++) sum += out[i] = exponential_of(scale * (get(x[i]) - top));
    return {top, sum};
}

// Scores [N, queries, columns] become weights in place: softmax of the scaled scores up to each query's own position,
// which for the first is column `start`, and zero after it.
template <class T>
void causal_softmax(int threads, std::int64_t matrices, int queries, int columns, int start, float scale, T *scores) {
    in_shares(threads, matrices * queries, [=](int, std::int64_t first, std::int64_t end) {
        std::vector<float> exact(columns);
        for (std::int64_t row = first; row < end; row++) {
            T *x = scores + row * columns;
            const int seen = start + int(row % queries) + 1;
            const float share = 1 / exponentials(x, seen, scale, exact.data()).sum;
#pragma omp simd
            for (int i = 0; i < seen; i++) put(x[i], exact[i] * share);
            std::memset(static_cast<void *>(x + seen), 0, (columns - seen) * sizeof(T));
        }
    });
}

// The gradient of weights becomes that of the scores before they were scaled, in place.
template <class T>
void softmax_backward(int threads, std::int64_t rows, int columns, float scale, const T *weights, T *gradient) {
    in_shares(threads, rows, [=](int, std::int64_t first, std::int64_t end) {
        for (std::int64_t row = first; row < end; row++) {
            const T *w = weights + row * columns;
            T *x = gradient + row * columns;
            float along = 0;
#pragma omp simd reduction(+ : along)
            for (int i = 0; i < columns; i++) along += get(w[i]) * get(x[i]);
#pragma omp simd
            for (int i = 0; i < columns; i++) put(x[i], scale * get(w[i]) * (get(x[i]) - along));
        }
    });
}

// Logits [rows, vocabulary] become their gradient in place; losses [rows] in nats. A negative target carries none.
template <class T>
void cross_entropy(int threads, std::int64_t rows, int vocabulary, const std::int64_t *targets, T *logits, float *losses) {
    in_shares(threads, rows, [=](int, std::int64_t first, std::int64_t end) {
        std::vector<float> exact(vocabulary);
        for (std::int64_t row = first; row < end; row++) {
            T *x = logits + row * vocabulary;
            losses[row] = 0;
            if (targets[row] < 0) {
                std::memset(static_cast<void *>(x), 0, vocabulary * sizeof(T));
                continue;
            }
            const std::int64_t target = targets[row];
            const auto [top, sum] = exponentials(x, vocabulary, 1, exact.data());
            losses[row] = std::log(sum) + top - get(x[target]);
            const float share = 1 / sum;
#pragma omp simd
            for (int i = 0; i < vocabulary; i++) put(x[i], exact[i] * share);
            put(x[target], exact[target] * share - 1);
        }
    });
}

// In the order of the operations in bimo.h.
template <class T>
const void *const TRAINING[] = {
    (const void *)norm<T>,           (const void *)norm_backward<T>,
    (const void *)turned_heads<T>,   (const void *)turned_heads_backward<T>,
    (const void *)gated<T>,          (const void *)gated_backward<T>,
    (const void *)causal_softmax<T>, (const void *)softmax_backward<T>,
    (const void *)cross_entropy<T>,
};

const void *training(int format, int operation) {
    return format == BIMO_BF16 ? TRAINING<BFloat16>[operation] : TRAINING<float>[operation];
}
