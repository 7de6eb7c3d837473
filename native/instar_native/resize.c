/* Antialiased bilinear, to the bits of PyTorch's uint8 kernel or of Pillow's.
 *
 * Both make every output of some inputs, first across, then down, by whole numbers: the sum of inputs times weights, and
 * a half, shifted. They differ in how many binary places a weight has. Both weigh in double precision, as this file does;
 * it is compiled without fused products, which would round otherwise.
 *
 * Sixteen rows are taken at once and turned, so that pixels above each other lie side by side. Then one loop does both
 * directions: neighbours that all have the same weights. It is plain, and compilers make vectors of it for every kind of
 * processor they know.
 */

#include "resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
/* Input pixels that at most become one: so that what the weights are rounded by is less than half a step of a sum. */
#define MOST 31
#define UP(number, step) (((number) + (step) - 1) / (step) * (step))

typedef uint8_t Bytes __attribute__((vector_size(LANES)));

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__SANITIZE_ADDRESS__)
#define FOR_EVERY_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EVERY_PROCESSOR
#endif
/* What is not put into such a function is compiled for the oldest processor alone. */
#define PART_OF_IT static inline __attribute__((always_inline))
#ifdef __clang__
#define INTERLEAVED(one, other, ...) __builtin_shufflevector(one, other, __VA_ARGS__)
#else
#define INTERLEAVED(one, other, ...) __builtin_shuffle(one, other, (Bytes){__VA_ARGS__})
#endif

/* With a constant number of inputs this is a form of loop that every compiler makes vectors of. */
#define SUM_OF(this_many, inputs)                                                                                      \
    this_many:                                                                                                         \
    for (size_t lane = 0; lane < num; lane++) {                                                                        \
        int32_t sum = 1 << (bits - 1);                                                                                 \
        for (size_t one = 0; one < inputs; one++)                                                                      \
            sum += at[one * step + lane] * weight[one];                                                                \
        into[lane] = (unsigned char)(sum >> bits);                                                                     \
    }                                                                                                                  \
    break

/* Of `num` neighbours: `of` inputs, each `step` bytes after the one before, times their weights. */
PART_OF_IT void mix(unsigned char *restrict into, const unsigned char *restrict at, size_t step,
                    const int32_t *restrict weight, size_t of, int bits, size_t num)
{
    switch (of) {
        SUM_OF(case 1, 1);
        SUM_OF(case 2, 2);
        SUM_OF(case 3, 3);
        SUM_OF(case 4, 4);
        SUM_OF(case 5, 5);
        SUM_OF(case 6, 6);
        SUM_OF(case 7, 7);
        SUM_OF(case 8, 8);
        SUM_OF(case 9, 9);
        SUM_OF(default, of);
    }
}

/* Rows become columns: interleaving the first half with the second does that in four rounds. */
static inline void turn(Bytes tile[LANES])
{
    for (int round = 0; round < 4; round++) {
        Bytes before[LANES];
        memcpy(before, tile, sizeof before);
        for (int one = 0; one < LANES / 2; one++) {
            Bytes low = before[one], high = before[one + LANES / 2];
            tile[2 * one] = INTERLEAVED(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            tile[2 * one + 1] = INTERLEAVED(low, high, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
    }
}

/* Rows of some bytes, as columns of ROWS. */
static void turn_rows(unsigned char *into, const unsigned char *const *row, size_t num, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += LANES) {
        Bytes tile[ROWS] = {{0}};
        size_t some = bytes - at < LANES ? bytes - at : LANES;
        if (some == LANES)
            for (size_t one = 0; one < ROWS; one++)
                memcpy(&tile[one], row[one < num ? one : num - 1] + at, LANES);
        else
            for (size_t one = 0; one < num; one++)
                memcpy(&tile[one], row[one] + at, some);
        turn(tile);
        memcpy(into + at * ROWS, tile, sizeof tile);
    }
}

static void turn_back(unsigned char *into, size_t line, const unsigned char *column, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += LANES) {
        Bytes tile[LANES];
        memcpy(tile, column + at * ROWS, sizeof tile);
        turn(tile);
        for (size_t one = 0; one < ROWS; one++)
            memcpy(into + one * line + at, &tile[one], LANES);
    }
}

FOR_EVERY_PROCESSOR
static void mix_across(unsigned char *into, const unsigned char *turned, const Axis *axis, size_t colours)
{
    size_t pixel = colours * ROWS;
    for (size_t x = 0; x < axis->num; x++)
        mix(into + x * pixel, turned + (axis->from[x] - axis->first) * pixel, pixel, axis->weight + x * axis->taps,
            axis->of[x], axis->bits, pixel);
}

FOR_EVERY_PROCESSOR
static void mix_down(unsigned char *into, const unsigned char *kept, size_t line, const Axis *axis, size_t y,
                     size_t bytes)
{
    mix(into, kept, line, axis->weight + y * axis->taps, axis->of[y], axis->bits, bytes);
}

/* How many inputs on either side of its centre an output is made of. */
static double support_of(float from, float to, size_t num)
{
    double scale = (double)(to - from) / (double)num;
    return scale < 1 ? 1 : scale;
}

/* What each input from `from` to `to` is in each output. 0 where that is more than was made room for. */
static int weigh(Axis *axis, size_t inputs, float from, float to, int narrow)
{
    double scale = (double)(to - from) / (double)axis->num, support = support_of(from, to, axis->num), largest = 0;
    for (size_t x = 0; x < axis->num; x++) {
        double centre = from + ((double)x + 0.5) * scale, total = 0, *share = axis->share + x * axis->taps;
        double first = centre - support + 0.5, past = centre + support + 0.5;
        axis->from[x] = first > 0 ? (uint32_t)first : 0;
        axis->of[x] = (past < (double)inputs ? (uint32_t)past : (uint32_t)inputs) - axis->from[x];
        if (axis->of[x] == 0 || axis->of[x] > axis->taps)
            return 0;
        for (size_t one = 0; one < axis->of[x]; one++) {
            double away = fabs(((double)(one + axis->from[x]) - centre + 0.5) * (1 / support));
            share[one] = away < 1 ? 1 - away : 0;
            total += share[one];
        }
        for (size_t one = 0; one < axis->of[x]; one++) {
            share[one] /= total;
            largest = share[one] > largest ? share[one] : largest;
        }
    }
    axis->bits = 22;
    if (narrow) /* what 15 bits have room for */
        for (axis->bits = 0; axis->bits < 22 && (int)(0.5 + largest * (2 << axis->bits)) < 1 << 15;)
            axis->bits++;
    for (size_t x = 0; x < axis->num; x++)
        for (size_t one = x * axis->taps; one < x * axis->taps + axis->of[x]; one++)
            axis->weight[one] = (int32_t)(0.5 + axis->share[one] * (1 << axis->bits));
    axis->first = axis->from[0];
    axis->past = axis->from[axis->num - 1] + axis->of[axis->num - 1];
    return 1;
}

/* The box lies alone, and the image begins so far before it. */
static void move(Axis *axis, size_t by)
{
    for (size_t x = 0; x < axis->num; x++)
        axis->from[x] += (uint32_t)by;
    axis->first += by;
    axis->past += by;
}

static void mirror(Axis *axis)
{
    for (size_t x = 0, other = axis->num - 1; x < other; x++, other--) {
        uint32_t from = axis->from[x], of = axis->of[x];
        axis->from[x] = axis->from[other], axis->of[x] = axis->of[other];
        axis->from[other] = from, axis->of[other] = of;
        for (size_t one = 0; one < axis->taps; one++) {
            int32_t weight = axis->weight[x * axis->taps + one];
            axis->weight[x * axis->taps + one] = axis->weight[other * axis->taps + one];
            axis->weight[other * axis->taps + one] = weight;
        }
    }
}

/* Cuts pieces of whole LANES off the memory; only counts them where there is none yet. */
static void *piece(unsigned char *memory, size_t *used, size_t bytes)
{
    void *at = memory == NULL ? NULL : memory + *used;
    *used += UP(bytes, 4 * LANES);
    return at;
}

static size_t divide(Resize *resize, unsigned char *memory)
{
    size_t used = 0, read = (resize->across.past - resize->across.first) * resize->colours;
    Axis *axes[] = {&resize->across, &resize->down};
    for (int one = 0; one < 2; one++) {
        Axis *axis = axes[one];
        axis->from = piece(memory, &used, axis->num * sizeof *axis->from);
        axis->of = piece(memory, &used, axis->num * sizeof *axis->of);
        axis->share = piece(memory, &used, axis->num * axis->taps * sizeof *axis->share);
        axis->weight = piece(memory, &used, axis->num * axis->taps * sizeof *axis->weight);
    }
    resize->turned = piece(memory, &used, UP(read, LANES) * ROWS);
    resize->mixed = piece(memory, &used, resize->line * ROWS);
    resize->kept = piece(memory, &used, resize->line * resize->room);
    return used;
}

const char *resize_begin(Resize *resize, const Wish *wish)
{
    Axis *across = &resize->across, *down = &resize->down;
    float left = wish->left, top = wish->top, right = wish->right, bottom = wish->bottom;
    size_t width = wish->width, height = wish->height;
    if (!(0 <= left && left < right && right <= (float)width && 0 <= top && top < bottom && bottom <= (float)height))
        return "the box is not inside the image";
    if (wish->pytorch && (left != floorf(left) || top != floorf(top) || right != floorf(right) || bottom != floorf(bottom)))
        return "the box is not of whole pixels";
    across->num = wish->out_width;
    down->num = wish->out_height;
    double support_x = support_of(left, right, across->num), support_y = support_of(top, bottom, down->num);
    if (support_x > MOST || support_y > MOST)
        return "too many pixels become one";
    across->taps = 2 * (size_t)ceil(support_x) + 1;
    down->taps = 2 * (size_t)ceil(support_y) + 1;
    across->past = width; /* at most */
    resize->colours = wish->colours;
    resize->line = UP(across->num * resize->colours, LANES);
    resize->room = down->taps + ROWS;
    resize->memory = malloc(divide(resize, NULL));
    if (resize->memory == NULL)
        return "no memory";
    divide(resize, resize->memory);
    if (wish->pytorch) {
        size_t x = (size_t)left, y = (size_t)top;
        width = (size_t)right - x;
        height = (size_t)bottom - y;
        right -= left, bottom -= top;
        left = top = 0;
    }
    if (!weigh(across, width, left, right, wish->pytorch) || !weigh(down, height, top, bottom, wish->pytorch))
        return "a pixel of nothing";
    if (wish->pytorch) {
        move(across, (size_t)wish->left);
        move(down, (size_t)wish->top);
    }
    if (wish->mirrored)
        mirror(across);
    resize->held_first = down->first;
    resize->into = wish->into;
    resize->row_bytes = wish->row_bytes;
    if (wish->upside_down) {
        resize->into += (ptrdiff_t)(down->num - 1) * wish->row_bytes;
        resize->row_bytes = -wish->row_bytes;
    }
    return NULL;
}

void resize_take(Resize *resize, const unsigned char *const *row, size_t num)
{
    const Axis *across = &resize->across, *down = &resize->down;
    size_t bytes = across->num * resize->colours;
    if (resize->held + ROWS > resize->room) {
        size_t gone = down->from[resize->done] - resize->held_first;
        memmove(resize->kept, resize->kept + gone * resize->line, (resize->held - gone) * resize->line);
        resize->held_first += gone;
        resize->held -= gone;
    }
    turn_rows(resize->turned, row, num, (across->past - across->first) * resize->colours);
    mix_across(resize->mixed, resize->turned, across, resize->colours);
    turn_back(resize->kept + resize->held * resize->line, resize->line, resize->mixed, bytes);
    resize->held += num;
    for (size_t y = resize->done; y < down->num; resize->done = ++y) {
        if (down->from[y] + down->of[y] > resize->held_first + resize->held)
            return;
        mix_down(resize->into + (ptrdiff_t)y * resize->row_bytes,
                 resize->kept + (down->from[y] - resize->held_first) * resize->line, resize->line, down, y, bytes);
    }
}

void resize_end(Resize *resize)
{
    free(resize->memory);
}

const char *resize_rows(const Wish *wish, const unsigned char *pixels, ptrdiff_t row_bytes)
{
    Resize resize = {0};
    const char *refused = resize_begin(&resize, wish);
    for (size_t y = resize.down.first; refused == NULL && y < resize.down.past; y += ROWS) {
        const unsigned char *row[ROWS];
        size_t num = resize.down.past - y < ROWS ? resize.down.past - y : ROWS;
        for (size_t one = 0; one < num; one++)
            row[one] = pixels + (ptrdiff_t)(y + one) * row_bytes + resize.across.first * wish->colours;
        resize_take(&resize, row, num);
    }
    resize_end(&resize);
    return refused;
}
