/* Numbers of a text. */

#ifndef TABLE_H
#define TABLE_H

#include <stddef.h>

/* 1 when all of the text is `height` lines of `width` numbers with ; between, and they are filled in; else 0. */
int table_read(const char *text, size_t size, float *into, size_t width, size_t height);

#endif
