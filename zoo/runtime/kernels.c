/* Layers of training on the CPU, in float32 and with channels last: (N, H, W, C) in memory.
 *
 * Sums have the same order with any number of threads.
 */

#include <stddef.h>

#if !defined(__GNUC__)
#error "vectors are written as GCC and Clang have them"
#endif

enum { LANES = 16 };
typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));
typedef ptrdiff_t size;
#define INLINE static inline __attribute__((always_inline))

enum { CHUNK = 64, PARTS = 4 }; /* pixels are summed in chunks, and chunks in double precision */
typedef int whole __attribute__((vector_size(LANES * sizeof(int)), may_alias));

INLINE size least(size a, size b) { return a < b ? a : b; }

INLINE lanes choose(whole mask, lanes a, lanes b) { return (lanes)(((whole)a & mask) | ((whole)b & ~mask)); }

/* Add up `count` numbers of each chunk in `scratch`. */
static void add_chunks(const float *scratch, float *sums, size chunks, size count) {
#pragma omp parallel for schedule(static)
    for (size c = 0; c < count; c++) {
        double total = 0;
        for (size chunk = 0; chunk < chunks; chunk++) total += scratch[chunk * count + c];
        sums[c] = (float)total;
    }
}

/* Bias and leaky ReLU in place: x (pixels, channels). */
void bias_leaky(float *x, const float *bias, float slope, size pixels, size channels) {
#pragma omp parallel for schedule(static)
    for (size p = 0; p < pixels; p++)
        for (size c = 0; c < channels; c += LANES) {
            lanes *pixel = (lanes *)(x + p * channels + c), y = *pixel + *(const lanes *)(bias + c);
            *pixel = choose(y > 0.0f, y, y * slope);
        }
}

/* Its gradient, from that of the result: out as x, sums (channels) over all pixels; scratch: channels for each chunk. */
void bias_leaky_gradient(const float *result, const float *gradient, float *out, float *sums, float *scratch,
                         float slope, size pixels, size channels) {
    size chunks = (pixels + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static)
    for (size chunk = 0; chunk < chunks; chunk++) {
        size first = chunk * CHUNK, count = least(CHUNK, pixels - first);
        for (size c = 0; c < channels; c += LANES) {
            lanes total = {0};
            for (size p = first; p < first + count; p++) {
                lanes d = *(const lanes *)(gradient + p * channels + c);
                d = choose(*(const lanes *)(result + p * channels + c) > 0.0f, d, d * slope);
                *(lanes *)(out + p * channels + c) = d;
                total += d;
            }
            *(lanes *)(scratch + chunk * channels + c) = total;
        }
    }
    add_chunks(scratch, sums, chunks, channels);
}

/* Batch norm and gated linear unit: x has 2 `channels`, of which the first half is multiplied by the sigmoid of the
 * second, after y = gain x + shift. */

INLINE lanes limit(lanes x, float low, float high) {
    lanes bottom = (lanes){0} + low, top = (lanes){0} + high;
    return choose(x < bottom, bottom, choose(x > top, top, x));
}

/* exp(x) = 2^k exp(r), with |r| <= log(2) / 2: the polynomial of Cephes' expf (Moshier 1989). */
INLINE lanes exponential(lanes x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to whole numbers */
    x = limit(x, -87.0f, 87.0f);
    lanes shifted = x * 1.44269504088896341f + magic, k = shifted - magic;
    lanes r = x - k * 0.693359375f + k * 2.12194440e-4f;
    lanes p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    whole scale = ((whole)shifted - (whole)((lanes){0} + magic) + 127) << 23;
    return p * (lanes)scale;
}

INLINE lanes sigmoid(lanes x) { return 1.0f / (1.0f + exponential(-x)); }

/* Mean and biased variance of each channel; scratch: 2 floats for each channel and chunk of CHUNK pixels. */
void norm_statistics(const float *x, float *mean, float *variance, float *scratch, size pixels, size channels) {
    size chunks = (pixels + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static)
    for (size chunk = 0; chunk < chunks; chunk++) {
        size first = chunk * CHUNK, count = least(CHUNK, pixels - first);
        float *out = scratch + chunk * 2 * channels;
        for (size c = 0; c < channels; c += LANES) {
            const float *pixel = x + first * channels + c;
            lanes sums[PARTS] = {{0}}, squares[PARTS] = {{0}};
            for (size p = 0; p < count; p++) sums[p % PARTS] += *(const lanes *)(pixel + p * channels);
            lanes centre = (sums[0] + sums[1] + sums[2] + sums[3]) / (float)count;
            for (size p = 0; p < count; p++) {
                lanes d = *(const lanes *)(pixel + p * channels) - centre;
                squares[p % PARTS] += d * d;
            }
            *(lanes *)(out + c) = centre;
            *(lanes *)(out + channels + c) = squares[0] + squares[1] + squares[2] + squares[3];
        }
    }
#pragma omp parallel for schedule(static)
    for (size c = 0; c < channels; c++) { /* Chan et al. 1983 */
        double total = 0, squares = 0;
        for (size chunk = 0; chunk < chunks; chunk++)
            total += (double)scratch[chunk * 2 * channels + c] * least(CHUNK, pixels - chunk * CHUNK);
        total /= pixels;
        for (size chunk = 0; chunk < chunks; chunk++) {
            double d = scratch[chunk * 2 * channels + c] - total;
            squares += scratch[(chunk * 2 + 1) * channels + c] + d * d * least(CHUNK, pixels - chunk * CHUNK);
        }
        mean[c] = (float)total;
        variance[c] = (float)(squares / pixels);
    }
}

/* x: (pixels, 2 channels); gain, shift: (2 channels); out: (pixels, channels). */
void norm_gate(const float *x, const float *gain, const float *shift, float *out, size pixels, size channels) {
#pragma omp parallel for schedule(static)
    for (size p = 0; p < pixels; p++)
        for (size c = 0; c < channels; c += LANES) {
            const lanes *pixel = (const lanes *)(x + p * 2 * channels + c);
            const lanes *gains = (const lanes *)(gain + c), *shifts = (const lanes *)(shift + c);
            size gate = channels / LANES;
            lanes value = pixel[0] * gains[0] + shifts[0];
            *(lanes *)(out + p * channels + c) = value * sigmoid(pixel[gate] * gains[gate] + shifts[gate]);
        }
}

/* Gradients of y, value and gate, from that of the result. */
INLINE void differentiate_gate(const lanes *pixel, size gate, const lanes *gains, const lanes *shifts, lanes gradient,
                               lanes *by_value, lanes *by_gate) {
    lanes value = pixel[0] * gains[0] + shifts[0], s = sigmoid(pixel[gate] * gains[gate] + shifts[gate]);
    *by_value = gradient * s;
    *by_gate = *by_value * value * (1.0f - s);
}

/* sums: (2, 2 channels), those of the gradient of y and of its product with x - mean; scratch: as norm_statistics's. */
void norm_gate_sums(const float *x, const float *gradient, const float *gain, const float *shift, const float *mean,
                    float *sums, float *scratch, size pixels, size channels) {
    size chunks = (pixels + CHUNK - 1) / CHUNK, gate = channels / LANES;
#pragma omp parallel for schedule(static)
    for (size chunk = 0; chunk < chunks; chunk++) {
        size first = chunk * CHUNK, count = least(CHUNK, pixels - first);
        for (size c = 0; c < channels; c += LANES) {
            const lanes *means = (const lanes *)(mean + c);
            lanes value = {0}, gated = {0}, value_x = {0}, gated_x = {0}, by_value, by_gate;
            for (size p = first; p < first + count; p++) {
                const lanes *pixel = (const lanes *)(x + p * 2 * channels + c);
                differentiate_gate(pixel, gate, (const lanes *)(gain + c), (const lanes *)(shift + c),
                                   *(const lanes *)(gradient + p * channels + c), &by_value, &by_gate);
                value += by_value;
                gated += by_gate;
                value_x += by_value * (pixel[0] - means[0]);
                gated_x += by_gate * (pixel[gate] - means[gate]);
            }
            lanes *out = (lanes *)(scratch + chunk * 4 * channels + c);
            out[0] = value, out[gate] = gated, out[2 * gate] = value_x, out[3 * gate] = gated_x;
        }
    }
    add_chunks(scratch, sums, chunks, 4 * channels);
}

/* out = a (gradient of y) + b x + c, for each of the 2 channels. */
void norm_gate_gradient(const float *x, const float *gradient, const float *gain, const float *shift, const float *a,
                        const float *b, const float *c, float *out, size pixels, size channels) {
    size gate = channels / LANES;
#pragma omp parallel for schedule(static)
    for (size p = 0; p < pixels; p++)
        for (size k = 0; k < channels; k += LANES) {
            const lanes *pixel = (const lanes *)(x + p * 2 * channels + k);
            lanes *result = (lanes *)(out + p * 2 * channels + k), by_value, by_gate;
            differentiate_gate(pixel, gate, (const lanes *)(gain + k), (const lanes *)(shift + k),
                               *(const lanes *)(gradient + p * channels + k), &by_value, &by_gate);
            const lanes *slope = (const lanes *)(a + k), *inner = (const lanes *)(b + k), *rest = (const lanes *)(c + k);
            result[0] = slope[0] * by_value + inner[0] * pixel[0] + rest[0];
            result[gate] = slope[gate] * by_gate + inner[gate] * pixel[gate] + rest[gate];
        }
}
