/* The pixels under a box of a JPEG, without decoding what lies beside or below it.
 *
 * Huffman codes must be read from the first one on. But nothing else need be done above the box (jpeg_skip_scanlines)
 * or beside it (jpeg_crop_scanline), and nothing at all below it.
 *
 * What is given is what decoding the whole file gives, bit for bit. Whatever could differ is refused with a ValueError,
 * and its caller decodes the whole: several scans, arithmetic coding, other colours than grey and YCbCr, and every file
 * about which the library has a warning. As a box may end before a file is broken, the bytes behind it are looked
 * through for markers: they must lead to the end of the image and to nothing else.
 *
 * Nothing here is global; the lock of the interpreter is not held while decoding.
 */

#include "jpeg.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jerror.h>
#include <jpeglib.h>

#define WORDS(text) WORDS_OF(text)
#define WORDS_OF(text) #text
#ifdef LIBJPEG_TURBO_VERSION
#define LIBRARY "libjpeg-turbo " WORDS(LIBJPEG_TURBO_VERSION)
#else
#error "jpeg_crop_scanline is libjpeg-turbo's: its headers are needed, those of another libjpeg were found"
#endif

/* Pixels decoded beside the box: chroma is interpolated from its neighbours, also from one that lies outside. */
#define BESIDE 2
/* Rows decoded above it, for the same reason. */
#define ABOVE 2
/* Bytes by which a row is moved off its alignment: past the cache, as the library writes aligned ones, is no good for
 * what is read at once. */
#define AWRY 8

typedef struct {
    struct jpeg_error_mgr base;
    jmp_buf back;
    char reason[JMSG_LENGTH_MAX];
} Errors;

static void give_up(j_common_ptr image)
{
    Errors *errors = (Errors *)image->err;
    image->err->format_message(image, errors->reason);
    longjmp(errors->back, 1);
}

static void give_up_on_warning(j_common_ptr image, int level)
{
    if (level < 0)
        give_up(image);
}

static void say_nothing(j_common_ptr image)
{
    (void)image;
}

static void refuse(j_decompress_ptr image, const char *reason)
{
    Errors *errors = (Errors *)image->err;
    snprintf(errors->reason, sizeof errors->reason, "%s", reason);
    longjmp(errors->back, 1);
}

/* Whether the codes from here on lead to the end of the image, past no other marker than those for restarting. */
static int leads_to_the_end(const unsigned char *at, const unsigned char *end)
{
    while ((at = memchr(at, 0xFF, (size_t)(end - at))) != NULL) {
        while (at < end && *at == 0xFF)
            at++;
        if (at == end)
            return 0;
        if (*at != 0 && (*at < 0xD0 || *at > 0xD7))
            return *at == JPEG_EOI;
        at++;
    }
    return 0;
}

static void look_at_header(j_decompress_ptr image, unsigned int scale, size_t colours)
{
    if (jpeg_read_header(image, TRUE) != JPEG_HEADER_OK)
        refuse(image, "no image in it");
    if (image->progressive_mode || jpeg_has_multiple_scans(image))
        refuse(image, "several scans");
    if (image->arith_code)
        refuse(image, "arithmetic coding");
    if (image->data_precision != 8)
        refuse(image, "not 8 bits a value");
    if (image->jpeg_color_space != JCS_YCbCr && !(image->jpeg_color_space == JCS_GRAYSCALE && colours == 1))
        refuse(image, "its colours are not those asked for");
    if (!leads_to_the_end(image->src->next_input_byte, image->src->next_input_byte + image->src->bytes_in_buffer))
        refuse(image, "its end is missing, or something else stands before it");
    image->scale_num = 1;
    image->scale_denom = scale;
    image->out_color_space = colours == 1 ? JCS_GRAYSCALE : JCS_RGB;
}

/* Has the library decode no more columns than those; gives the first one that it does decode. */
static size_t cut_columns(j_decompress_ptr image, size_t first, size_t past)
{
    size_t before = first < BESIDE ? first : BESIDE, after = image->output_width - past;
    JDIMENSION left = (JDIMENSION)(first - before);
    JDIMENSION width = (JDIMENSION)(past + (after < BESIDE ? after : BESIDE)) - left;
    if (width < image->output_width)
        jpeg_crop_scanline(image, &left, &width); /* left moves to where a block begins */
    if (left > first || image->output_width < past - left)
        refuse(image, "the library cut off too much");
    return left;
}

static void decode(j_decompress_ptr image, Wish *wish, Resize *resize)
{
    jpeg_start_decompress(image);
    if ((size_t)image->output_components != wish->colours)
        refuse(image, "another number of colours");
    wish->width = image->output_width;
    wish->height = image->output_height;
    const char *refused = resize_begin(resize, wish);
    if (refused != NULL)
        refuse(image, refused);

    size_t first = resize->across.first, top = resize->down.first, past = resize->down.past;
    size_t skip = (first - cut_columns(image, first, resize->across.past)) * wish->colours;
    JSAMPARRAY row = image->mem->alloc_sarray(
        (j_common_ptr)image, JPOOL_IMAGE, image->output_width * (JDIMENSION)image->output_components + AWRY, ROWS);
    const unsigned char *seen[ROWS];
    for (int one = 0; one < ROWS; one++) {
        row[one] += AWRY;
        seen[one] = row[one] + skip;
    }
    if (top > ABOVE)
        jpeg_skip_scanlines(image, (JDIMENSION)(top - ABOVE));
    while (image->output_scanline < top)
        if (jpeg_read_scanlines(image, row, (JDIMENSION)(top - image->output_scanline)) == 0)
            refuse(image, "no more rows");
    while (image->output_scanline < past) {
        size_t left = past - image->output_scanline, wanted = left < ROWS ? left : ROWS, num = 0;
        for (size_t got = 1; num < wanted && got > 0; num += got)
            got = jpeg_read_scanlines(image, row + num, (JDIMENSION)(wanted - num));
        if (num < wanted)
            refuse(image, "no more rows");
        resize_take(resize, seen, num);
    }
}

/* Only what its caller owns changes after setjmp, so that it is still known after longjmp. */
static int show(j_decompress_ptr image, const unsigned char *data, size_t size, unsigned int scale, Wish *wish,
                Resize *resize)
{
    if (setjmp(((Errors *)image->err)->back))
        return 0;
    jpeg_create_decompress(image);
    jpeg_mem_src(image, (unsigned char *)data, (unsigned long)size);
    look_at_header(image, scale, wish->colours);
    decode(image, wish, resize);
    return 1;
}

int jpeg_show(const unsigned char *data, size_t size, unsigned int scale, const Wish *wish, char *reason)
{
    struct jpeg_decompress_struct image;
    Wish known = *wish;
    Resize resize = {0};
    Errors errors;
    memset(&image, 0, sizeof image); /* destroying it is safe from here on */
    image.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = give_up;
    errors.base.emit_message = give_up_on_warning;
    errors.base.output_message = say_nothing;
    int shown = show(&image, data, size, scale, &known, &resize);
    if (!shown)
        snprintf(reason, REASON, "%s", errors.reason);
    jpeg_destroy_decompress(&image);
    resize_end(&resize);
    return shown;
}

const char *jpeg_library(void)
{
    return LIBRARY;
}
