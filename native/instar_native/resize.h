/* A resize that takes rows as they come and gives each output row as soon as what it is made of is there. */

#ifndef RESIZE_H
#define RESIZE_H

#include <stddef.h>
#include <stdint.h>

/* Input rows taken at once. */
#define ROWS 16

/* One direction: which inputs each output is made of, and how much of each is in it. */
typedef struct {
    size_t num, taps;    /* outputs, and the most inputs one of them has */
    size_t first, past;  /* inputs that are read: from first to before past */
    int bits;            /* binary places of a weight */
    uint32_t *from, *of; /* for each output its first input and how many it has */
    double *share;       /* num x taps: how much of each is in it, and that in whole numbers */
    int32_t *weight;
} Axis;

typedef struct {
    Axis across, down;
    size_t colours;
    unsigned char *into;
    ptrdiff_t row_bytes;
    size_t done;                     /* output rows */
    size_t held_first, held, room;   /* resized rows that are kept: the first one's place in the image, and how many */
    size_t line;                     /* bytes from one of them to the next */
    unsigned char *turned, *mixed, *kept, *memory;
} Resize;

/* What is asked for: the box of an image of so many pixels that becomes an array of so many. */
typedef struct {
    size_t width, height, colours; /* of the image; bytes a pixel */
    float left, top, right, bottom;
    size_t out_width, out_height;
    int pytorch;                   /* as it does: nothing beside the box, which is of whole pixels, is read */
    int mirrored, upside_down;
    unsigned char *into;
    ptrdiff_t row_bytes;
} Wish;

/* NULL, or why it is not for us. Of all zeros before; what was begun is to be ended in either case. */
const char *resize_begin(Resize *resize, const Wish *wish);

/* The next `num` rows, at most ROWS, the first of which is down.first; each begins at pixel across.first. */
void resize_take(Resize *resize, const unsigned char *const *row, size_t num);

void resize_end(Resize *resize);

/* All of it, from rows that are in memory. NULL, or why it is not for us. */
const char *resize_rows(const Wish *wish, const unsigned char *pixels, ptrdiff_t row_bytes);

#endif
