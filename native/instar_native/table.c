/* Tables of plain decimal numbers (`-12.34`), to the bits of reading each as a double and rounding that to a float.
 *
 * Digits below 2^53 and a power of ten up to 10^15 are exact in a double, so their quotient is the double nearest to the
 * text. Whatever else stands in a text - a sign of another kind, an exponent, a blank - is refused.
 *
 * A processor guesses wrong where a number of unknown length ends, which costs more than to read it. So numbers that fit
 * into eight bytes, with as many places as the one before them, are read without a branch: their digits are moved to one
 * end and added up all at once.
 */

#include "table.h"

#include <stdint.h>
#include <string.h>

/* Digits of one number. */
#define MOST_DIGITS 15
#define EIGHT(byte) (0x0101010101010101u * (byte))

static const double POWER[MOST_DIGITS + 1] = {1,   1e1, 1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                              1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};

/* How many of `num` numbers, each followed by a semicolon, could be read so; `at` moves behind them. */
static size_t read_short(const char **from, const char *end, unsigned int places, float *into, size_t num)
{
    const char *at = *from;
    const unsigned int point = 8 * (7 - places);
    const uint64_t before_point = ((uint64_t)1 << point) - 1, after_point = ~(before_point << 8 | 0xFF);
    size_t done = 0;
    for (; done < num && end - at >= 8; done++) {
        uint64_t bytes;
        memcpy(&bytes, at, sizeof bytes);
        /* Of digits, point, minus, semicolon and line end the last two have these three bits: 1, not 2, and 3. */
        uint64_t ends = bytes & bytes << 2 & ~(bytes << 1) & EIGHT(8);
        unsigned int length = ends == 0 ? 0 : (unsigned int)__builtin_ctzll(ends) / 8;
        uint64_t minus = (bytes & 0xFF) ^ '-', negative = (minus - 1) >> 63;
        if (length < places + 2 + negative || at[length] != ';')
            break;
        bytes += negative * ('0' - '-');
        bytes = bytes << 8 * (8 - length) | EIGHT('0') >> 8 * length; /* the last digit is in the highest byte */
        uint64_t digits = ((bytes & after_point) | (bytes & before_point) << 8 | '0') ^ EIGHT('0');
        if ((bytes >> point & 0xFF) != '.' || (((digits + EIGHT(0x76)) | digits) & EIGHT(0x80)) != 0)
            break;
        digits = digits * 10 + (digits >> 8); /* pairs, then fours, then all */
        digits = ((digits & 0x000000FF000000FF) * 0x000F424000000064 +
                  (digits >> 16 & 0x000000FF000000FF) * 0x0000271000000001) >> 32;
        into[done] = (float)((1.0 - 2.0 * (double)(int)negative) * ((double)(int)digits / POWER[places]));
        at += length + 1;
    }
    *from = at;
    return done;
}

/* Bytes of one number of any length, which is followed by a byte that is none of its own; 0 where it is none. */
static size_t read_any(const char *at, unsigned int *places, double *value)
{
    const char *begin = at, *first = at += *at == '-', *point = NULL;
    uint64_t digits = 0;
    for (; at - first <= MOST_DIGITS; at++)
        if (*at >= '0' && *at <= '9')
            digits = digits * 10 + (uint64_t)(*at - '0');
        else if (*at == '.' && point == NULL && at > first)
            point = at;
        else
            break;
    if (at == first || at - first > MOST_DIGITS || at - 1 == point)
        return 0;
    *places = point == NULL ? 0 : (unsigned int)(at - point - 1);
    *value = (double)digits / POWER[*places];
    *value = *begin == '-' ? -*value : *value;
    return (size_t)(at - begin);
}

int table_read(const char *text, size_t size, float *into, size_t width, size_t height)
{
    const char *at = text, *end = text + size;
    const int little = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;
    unsigned int places = 0;
    if (size == 0 || end[-1] != '\n')
        return 0;
    for (size_t y = 0; y < height; y++, into += width)
        for (size_t x = 0; x < width; x++) {
            double value;
            if (little && places > 0 && places < 6)
                x += read_short(&at, end, places, into + x, width - 1 - x);
            size_t length = at == end ? 0 : read_any(at, &places, &value);
            if (length == 0 || at[length] != (x + 1 < width ? ';' : '\n'))
                return 0;
            into[x] = (float)value;
            at += length + 1;
        }
    return at == end;
}
