/* The pixels under a box of a JPEG, resized on the way. */

#ifndef JPEG_H
#define JPEG_H

#include "resize.h"

/* Bytes that a reason may have. */
#define REASON 200

/* 1 when the wish is done; 0 with the reason where the bits are not sure to be those of decoding all of the file.
 * Width and height in the wish are the file's to say; its box is in an image made 1, 2, 4 or 8 times smaller. */
int jpeg_show(const unsigned char *data, size_t size, unsigned int scale, const Wish *wish, char *reason);

/* Whose it is, and which version. */
const char *jpeg_library(void);

#endif
