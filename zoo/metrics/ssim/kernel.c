/* SSIM of many 8-bit images with many others: 7x7 uniform windows, sample covariance (see ssim.py for the definition).
 *
 * One set (the lane set, "x") is laid out so that a vector holds the same pixel of LANES images; the images of the other
 * set ("y") are taken one at a time, a pixel of theirs going to all lanes. Neighbouring windows are then neighbouring
 * vectors, and running sums along both axes need no shuffling: of all that a pair needs, only sum(x y) is computed for
 * the pair, in two multiplications and four additions a window. Everything else is known of each image alone.
 *
 * Sums over windows are exact. Pixels are integers over SCALE, a power of two, so that every product and sum below 2^24
 * units (7 * 7 * 255 * 255 is) is a float without rounding: nothing drifts, and equal images give equal figures wherever
 * they stand. What is left is one rounding of the last steps.
 *
 * The covariance, 49 sum(xy) - sum(x) sum(y), may reach 2^27 units and would lose digits where it matters most, in flat
 * bright patches. With sum(y) = 49 p + q, p the rounded mean of the window, it is
 *     49 (sum(xy) - p sum(x)) - q sum(x),
 * in which all that a flat patch leaves is small and exact.
 *
 * Where the whole window of y has one grey level (the background: more than half of a slice of a head is black), its
 * variance and the covariance are zero and SSIM depends on x alone. `ssim_prepare` adds that up beforehand for one level,
 * and `ssim_table` leaves out the rows of a strip that need nothing more. This is exact too.
 *
 * An image is walked in strips of STRIP columns, each in blocks of BLOCK rows, so that a block of LANES lane images and
 * of BATCH others stays in the second level of cache while all pairs of them are compared.
 *
 * Plain C with vectors as GCC and Clang have them: the compiler makes of them what the machine has.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__GNUC__)
#error "vectors are written as GCC and Clang have them"
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

enum { WINDOW = 7, AREA = WINDOW * WINDOW, HALO = WINDOW - 1, STRIP = 16, BLOCK = 32, BATCH = 64 };

#define SCALE 128.0f /* products of four denominators then stay below the largest float */

typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));
typedef ptrdiff_t size;

/* A row of a strip of the lane set: pixels, and sums and variances of the windows that begin in this row. The variance is
 * (49 sum(x^2) - sum(x)^2) / B + 1/2, so that two of them are the denominator's (var x + var y + C2), over C2. */
typedef struct {
    lanes pixel[STRIP + HALO];
    lanes sum[STRIP];
    lanes variance[STRIP];
} row;

/* The same of a block of one image of the other set. `pixel` begins with a row of zeros, which is what leaves the window
 * when its first row enters; `square` is sum(y)^2 + A. */
typedef struct {
    float pixel[1 + BLOCK + HALO][STRIP + HALO];
    float mean[BLOCK][STRIP], rest[BLOCK][STRIP], sum[BLOCK][STRIP], square[BLOCK][STRIP], variance[BLOCK][STRIP];
    size from, upto; /* window rows of the whole strip that are not all of the one level */
} single;

static inline size least(size a, size b) { return a < b ? a : b; }
static inline size most(size a, size b) { return a > b ? a : b; }

/* How many images stand side by side. */
size ssim_lanes(void) { return LANES; }

/* A strip of LANES images: `height` rows, then (windows down + 1) * LANES doubles: row r holds, for every lane, the sum
 * of SSIM with the constant level over the windows of the rows above r. */
static size strip_bytes(size height) {
    return height * (size)sizeof(row) + (height - HALO + 1) * LANES * (size)sizeof(double);
}

static size strips(size width) { return (width - HALO + STRIP - 1) / STRIP; }

/* Bytes that `ssim_prepare` writes for `count` images of (channels, height, width). */
size ssim_bytes(size count, size channels, size height, size width) {
    return (count + LANES - 1) / LANES * channels * strips(width) * strip_bytes(height);
}

static void prepare_strip(const uint8_t *const image[LANES], size height, size width, size columns, double a, double b,
                          int level, unsigned char *out) {
    row *rows = (row *)out;
    double *constant = (double *)(rows + height), mean = AREA * (double)level;
    int32_t sums[STRIP + HALO][LANES] = {{0}}, squares[STRIP + HALO][LANES] = {{0}};

    memset(rows, 0, (size_t)height * sizeof *rows);
    for (int l = 0; l < LANES; l++) {
        constant[l] = 0;
        for (size r = 0; r < height; r++)
            for (size k = 0; k < columns + HALO; k++) rows[r].pixel[k][l] = image[l][r * width + k] / SCALE;
    }
    for (size r = -HALO; r < height - HALO; r++) {
        for (size k = 0; k < columns + HALO; k++)
            for (int l = 0; l < LANES; l++) {
                int32_t in = image[l][(r + HALO) * width + k], gone = r > 0 ? image[l][(r - 1) * width + k] : 0;
                sums[k][l] += in - gone;
                squares[k][l] += in * in - gone * gone;
            }
        if (r < 0) continue;
        double total[LANES] = {0};
        for (size k = 0; k < columns; k++)
            for (int l = 0; l < LANES; l++) {
                int32_t sum = 0, square = 0;
                for (int i = 0; i < WINDOW; i++) {
                    sum += sums[k + i][l];
                    square += squares[k + i][l];
                }
                double s = sum, variance = AREA * square - sum * sum;
                rows[r].sum[k][l] = (float)s / SCALE;
                rows[r].variance[k][l] = (float)(variance / b + 0.5);
                total[l] += (2 * s * mean + a) / (s * s + mean * mean + a) * (b / (variance + b));
            }
        for (int l = 0; l < LANES; l++) constant[(r + 1) * LANES + l] = constant[r * LANES + l] + total[l];
    }
}

/* Lay out the lane set.
 *
 * images: (count, channels, height, width); c1, c2: (K1 range)^2 and (K2 range)^2; level: of the background of the other
 * set; out: ssim_bytes(...) bytes. Missing lanes of the last group are filled with its last image.
 */
void ssim_prepare(const uint8_t *images, size count, size channels, size height, size width, double c1, double c2,
                  int level, unsigned char *out) {
    double a = c1 * AREA * AREA, b = c2 * AREA * (AREA - 1);
    for (size group = 0; group < count; group += LANES)
        for (size c = 0; c < channels; c++)
            for (size left = 0; left < width - HALO; left += STRIP) {
                const uint8_t *image[LANES];
                for (int l = 0; l < LANES; l++)
                    image[l] = images + (least(group + l, count - 1) * channels + c) * height * width + left;
                prepare_strip(image, height, width, least(STRIP, width - HALO - left), a, b, level, out);
                out += strip_bytes(height);
            }
}

static int all_of(const uint8_t *pixels, size count, int level) {
    int other = 0;
    for (size k = 0; k < count; k++) other |= pixels[k] ^ level;
    return !other;
}

/* Which window rows of a strip hold anything but the level. */
static void find_extent(single *y, const uint8_t *image, size height, size width, size columns, int level) {
    size first = 0, last = height - 1;
    while (first < height && all_of(image + first * width, columns + HALO, level)) first++;
    while (last > first && all_of(image + last * width, columns + HALO, level)) last--;
    y->from = first == height ? height - HALO : most(0, first - HALO);
    y->upto = first == height ? height - HALO : least(last + 1, height - HALO);
}

static void read_single(single *y, const uint8_t *image, size width, size count, size columns, float a, float b) {
    int32_t sums[STRIP + HALO] = {0}, squares[STRIP + HALO] = {0};
    memset(y->pixel[0], 0, sizeof y->pixel[0]);
    for (size r = -HALO; r < count; r++) {
        const uint8_t *in = image + (r + HALO) * width;
        for (size k = 0; k < columns + HALO; k++) {
            y->pixel[1 + HALO + r][k] = in[k] / SCALE;
            sums[k] += in[k];
            squares[k] += in[k] * in[k];
        }
        if (r > 0) {
            const uint8_t *gone = image + (r - 1) * width;
            for (size k = 0; k < columns + HALO; k++) {
                sums[k] -= gone[k];
                squares[k] -= gone[k] * gone[k];
            }
        }
        if (r < 0) continue;
        for (size k = 0; k < STRIP; k++) {
            int32_t sum = 0, square = 0;
            for (int i = 0; i < WINDOW; i++) {
                sum += sums[k + i];
                square += squares[k + i];
            }
            int32_t mean = (sum + AREA / 2) / AREA;
            float s = sum / SCALE;
            y->mean[r][k] = mean / SCALE;
            y->rest[r][k] = (sum - mean * AREA) / SCALE;
            y->sum[r][k] = s;
            y->square[r][k] = s * s + a;
            y->variance[r][k] = (AREA * square - sum * sum) / (b * SCALE * SCALE) + 0.5f;
        }
    }
}

/* SSIM of one window is numerator / denominator, but for a factor of 2 / b that all share; a = A / 2, b = B / 2. */
static inline void window(const row *x, const single *y, size r, size k, lanes product, float a, float b,
                          lanes *numerator, lanes *denominator) {
    lanes sum = x->sum[k];
    lanes luminance = sum * y->sum[r][k] + a;
    lanes structure = (product - sum * y->mean[r][k]) * (float)AREA + (b - sum * y->rest[r][k]);
    *numerator = luminance * structure;
    *denominator = (sum * sum + y->square[r][k]) * (x->variance[k] + y->variance[r][k]);
}

/* Add the SSIM of `count` rows of windows, LANES images with one, to `out`. */
static void compare(const row *x, const single *y, size count, size columns, float a, float b, double *out) {
    lanes column[STRIP + HALO]; /* of each column, the sum of x y over the seven rows of the window */
    lanes total = {0};

    for (size k = 0; k < columns + HALO; k++) {
        column[k] = (lanes){0};
        for (int r = 0; r < HALO; r++) column[k] += x[r].pixel[k] * y->pixel[1 + r][k];
    }
    for (size r = 0; r < count; r++) {
        const row *in = x + r + HALO, *gone = x + most(r - 1, 0);
        const float *y_in = y->pixel[1 + r + HALO], *y_gone = y->pixel[r];
        lanes product = {0}, leaving = {0}, sum = {0};
        size k = 0;

        for (int i = 0; i < HALO; i++) {
            column[i] += in->pixel[i] * y_in[i];
            column[i] -= gone->pixel[i] * y_gone[i];
            product += column[i];
        }
#define STEP(k, numerator, denominator)                                              \
    do {                                                                             \
        lanes next = column[(k) + HALO];                                             \
        next += in->pixel[(k) + HALO] * y_in[(k) + HALO];                            \
        next -= gone->pixel[(k) + HALO] * y_gone[(k) + HALO];                        \
        column[(k) + HALO] = next;                                                   \
        product += next - leaving; /* one addition between a window and its neighbour */ \
        leaving = column[k];                                                         \
        window(x + r, y, r, (k), product, a, b, &(numerator), &(denominator));       \
    } while (0)
        for (; k + 4 <= columns; k += 4) { /* four fractions on one denominator: a division costs more than this */
            lanes n0, n1, n2, n3, d0, d1, d2, d3;
            STEP(k, n0, d0);
            STEP(k + 1, n1, d1);
            STEP(k + 2, n2, d2);
            STEP(k + 3, n3, d3);
            n0 = n0 * d1 + n1 * d0, d0 *= d1;
            n2 = n2 * d3 + n3 * d2, d2 *= d3;
            sum += (n0 * d2 + n2 * d0) / (d0 * d2);
        }
        for (; k < columns; k++) {
            lanes n, d;
            STEP(k, n, d);
            sum += n / d;
        }
#undef STEP
        total += sum;
    }
    for (int l = 0; l < LANES; l++) out[l] += (double)total[l] * 2 / b;
}

/* SSIM of each of `singles` (others, channels, height, width) with each of the first `count` prepared images.
 *
 * prepared, channels, height, width, c1, c2, level: as `ssim_prepare` had them; out: (others, count).
 * Returns 0, or 1 where there is no memory.
 */
int ssim_table(const unsigned char *prepared, size count, const uint8_t *singles, size others, size channels, size height,
               size width, double c1, double c2, int level, float *out) {
    const float a = (float)(c1 * AREA * AREA / 2 / (SCALE * SCALE));
    const float b = (float)(c2 * AREA * (AREA - 1) / 2 / (SCALE * SCALE));
    const size groups = (count + LANES - 1) / LANES, image = height * width, down = height - HALO;
    const size strip = strip_bytes(height), group_bytes = channels * strips(width) * strip;
    single *batch = malloc(BATCH * sizeof *batch);
    double *sums = malloc((size_t)(BATCH * groups * LANES) * sizeof *sums);
    if (!batch || !sums) {
        free(batch);
        free(sums);
        return 1;
    }
    for (size begin = 0; begin < others; begin += BATCH) {
        const size many = least(BATCH, others - begin);
        memset(sums, 0, (size_t)(many * groups * LANES) * sizeof *sums);
        for (size at = 0; at < channels * strips(width); at++) {
            const size left = at % strips(width) * STRIP, columns = least(STRIP, width - HALO - left);
            const uint8_t *y = singles + (begin * channels + at / strips(width)) * image + left;
            const unsigned char *x = prepared + at * strip;
            size low = down, high = 0;

            for (size j = 0; j < many; j++) {
                find_extent(batch + j, y + j * channels * image, height, width, columns, level);
                low = least(low, batch[j].from);
                high = batch[j].from < batch[j].upto ? most(high, batch[j].upto) : high;
            }
            for (size block = low; block < high; block += BLOCK)
                for (size g = -1; g < groups; g++) /* first the block of the singles, then every group against it */
                    for (size j = 0; j < many; j++) {
                        size from = most(block, batch[j].from), rows = least(block + BLOCK, batch[j].upto) - from;
                        if (rows <= 0) continue;
                        if (g < 0)
                            read_single(batch + j, y + j * channels * image + from * width, width, rows, columns, 2 * a,
                                        2 * b);
                        else
                            compare((const row *)(x + g * group_bytes) + from, batch + j, rows, columns, a, b,
                                    sums + (j * groups + g) * LANES);
                    }
            for (size g = 0; g < groups; g++) {
                const double *constant = (const double *)((const row *)(x + g * group_bytes) + height);
                for (size j = 0; j < many; j++)
                    for (int l = 0; l < LANES; l++)
                        sums[(j * groups + g) * LANES + l] +=
                            constant[batch[j].from * LANES + l] +
                            (constant[down * LANES + l] - constant[batch[j].upto * LANES + l]);
            }
        }
        for (size j = 0; j < many; j++)
            for (size i = 0; i < count; i++)
                out[(begin + j) * count + i] =
                    (float)(sums[j * groups * LANES + i] / ((double)channels * (double)down * (double)(width - HALO)));
    }
    free(batch);
    free(sums);
    return 0;
}
