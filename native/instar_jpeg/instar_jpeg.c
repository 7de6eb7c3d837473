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

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

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
/* Rows asked for at once: with one at a time the library takes half as long again. */
#define ROWS 16
/* Bytes by which a row is moved off its alignment: past the cache, as the library writes aligned ones, is no good for
 * what is read at once. */
#define AWRY 8

typedef struct {
    struct jpeg_error_mgr base;
    jmp_buf back;
    char reason[JMSG_LENGTH_MAX];
} Errors;

/* A box of a decoded image, `scale` times smaller than the stored one, and where its pixels go. */
typedef struct {
    const unsigned char *data;
    size_t size;
    unsigned int scale;
    size_t left, top, width, height;
    int colours; /* bytes a pixel: 1 grey, 3 red green blue */
    unsigned char *into;
    Py_ssize_t row_bytes;
} Box;

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

static void look_at_header(j_decompress_ptr image, const Box *box)
{
    if (jpeg_read_header(image, TRUE) != JPEG_HEADER_OK)
        refuse(image, "no image in it");
    if (image->progressive_mode || jpeg_has_multiple_scans(image))
        refuse(image, "several scans");
    if (image->arith_code)
        refuse(image, "arithmetic coding");
    if (image->data_precision != 8)
        refuse(image, "not 8 bits a value");
    if (image->jpeg_color_space != JCS_YCbCr && !(image->jpeg_color_space == JCS_GRAYSCALE && box->colours == 1))
        refuse(image, "its colours are not those asked for");
    if (!leads_to_the_end(image->src->next_input_byte, image->src->next_input_byte + image->src->bytes_in_buffer))
        refuse(image, "its end is missing, or something else stands before it");
    image->scale_num = 1;
    image->scale_denom = box->scale;
    image->out_color_space = box->colours == 1 ? JCS_GRAYSCALE : JCS_RGB;
}

static void decode(j_decompress_ptr image, const Box *box)
{
    jpeg_start_decompress(image);
    if (image->output_components != box->colours)
        refuse(image, "another number of colours");
    if (box->left + box->width > image->output_width || box->top + box->height > image->output_height)
        refuse(image, "the box is not inside the image");

    size_t before = box->left < BESIDE ? box->left : BESIDE;
    size_t after = image->output_width - box->left - box->width;
    JDIMENSION left = (JDIMENSION)(box->left - before);
    JDIMENSION width = (JDIMENSION)(before + box->width + (after < BESIDE ? after : BESIDE));
    if (width < image->output_width)
        jpeg_crop_scanline(image, &left, &width); /* left moves to where a block begins */
    if (left > box->left || image->output_width < box->left - left + box->width)
        refuse(image, "the library cut off too much");

    size_t skip = (box->left - left) * (size_t)box->colours, bytes = box->width * (size_t)box->colours;
    JSAMPARRAY row = image->mem->alloc_sarray(
        (j_common_ptr)image, JPOOL_IMAGE, image->output_width * (JDIMENSION)image->output_components + AWRY, ROWS);
    for (int one = 0; one < ROWS; one++)
        row[one] += AWRY;
    if (box->top > ABOVE)
        jpeg_skip_scanlines(image, (JDIMENSION)(box->top - ABOVE));
    while (image->output_scanline < box->top + box->height) {
        size_t at = image->output_scanline;
        JDIMENSION got = jpeg_read_scanlines(image, row, ROWS);
        if (got == 0)
            refuse(image, "no more rows");
        for (size_t one = 0; one < got; one++, at++)
            if (at >= box->top && at < box->top + box->height)
                memcpy(box->into + (Py_ssize_t)(at - box->top) * box->row_bytes, row[one] + skip, bytes);
    }
}

/* 1 when the box is filled; 0 with the reason in `errors`. */
static int fill(const Box *box, Errors *errors)
{
    struct jpeg_decompress_struct image;
    memset(&image, 0, sizeof image); /* destroying it is safe from here on */
    image.err = jpeg_std_error(&errors->base);
    errors->base.error_exit = give_up;
    errors->base.emit_message = give_up_on_warning;
    errors->base.output_message = say_nothing;
    if (setjmp(errors->back)) {
        jpeg_destroy_decompress(&image);
        return 0;
    }
    jpeg_create_decompress(&image);
    jpeg_mem_src(&image, (unsigned char *)box->data, (unsigned long)box->size);
    look_at_header(&image, box);
    decode(&image, box);
    jpeg_destroy_decompress(&image);
    return 1;
}

/* What is wrong with the array that is to be filled; NULL for nothing. */
static const char *wrong_with(const Py_buffer *into)
{
    if (into->ndim != 3 || into->itemsize != 1 || (into->format != NULL && strcmp(into->format, "B") != 0))
        return "into must be uint8 of rows x columns x colours";
    Py_ssize_t colours = into->shape[2];
    if (colours != 1 && colours != 3)
        return "into must have 1 or 3 bytes a pixel";
    if (into->shape[0] < 1 || into->shape[1] < 1)
        return "into must have a pixel";
    if (into->shape[0] > JPEG_MAX_DIMENSION || into->shape[1] > JPEG_MAX_DIMENSION)
        return "into is larger than any JPEG";
    /* NumPy may say anything about the stride of an axis of length 1. */
    if ((colours > 1 && into->strides[2] != 1) || (into->shape[1] > 1 && into->strides[1] != colours))
        return "into must have the pixels of a row side by side";
    return NULL;
}

static PyObject *region(PyObject *module, PyObject *arguments)
{
    PyObject *data_of, *into_of, *result = NULL;
    Py_ssize_t left, top, scale;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOnnn:region", &data_of, &into_of, &left, &top, &scale))
        return NULL;
    if (left < 0 || top < 0 || left > JPEG_MAX_DIMENSION || top > JPEG_MAX_DIMENSION) {
        PyErr_SetString(PyExc_ValueError, "left and top must lie in an image");
        return NULL;
    }
    if (scale != 1 && scale != 2 && scale != 4 && scale != 8) {
        PyErr_SetString(PyExc_ValueError, "scale must be 1, 2, 4 or 8");
        return NULL;
    }
    Py_buffer data, into;
    if (PyObject_GetBuffer(data_of, &data, PyBUF_SIMPLE) != 0)
        return NULL;
    if (PyObject_GetBuffer(into_of, &into, PyBUF_STRIDES | PyBUF_FORMAT | PyBUF_WRITABLE) != 0) {
        PyBuffer_Release(&data);
        return NULL;
    }
    const char *wrong = data.len < 4 ? "no image in it" : wrong_with(&into);
    if (wrong != NULL) {
        PyErr_SetString(PyExc_ValueError, wrong);
    } else {
        Box box = {
            .data = data.buf, .size = (size_t)data.len, .scale = (unsigned int)scale,
            .left = (size_t)left, .top = (size_t)top,
            .width = (size_t)into.shape[1], .height = (size_t)into.shape[0], .colours = (int)into.shape[2],
            .into = into.buf, .row_bytes = into.strides[0],
        };
        Errors errors;
        int filled;
        Py_BEGIN_ALLOW_THREADS
        filled = fill(&box, &errors);
        Py_END_ALLOW_THREADS
        if (filled)
            result = Py_NewRef(Py_None);
        else
            PyErr_SetString(PyExc_ValueError, errors.reason);
    }
    PyBuffer_Release(&into);
    PyBuffer_Release(&data);
    return result;
}

static PyMethodDef functions[] = {
    {"region", region, METH_VARARGS,
     "region(data, into, left, top, scale)\n--\n\n"
     "Fill an array with the pixels of a JPEG from column `left` and row `top` on.\n\n"
     "data       the bytes of the file\n"
     "into       uint8, rows x columns x colours: 1 for grey, 3 for RGB\n"
     "left, top  in pixels of the image `scale` times smaller than the stored one\n"
     "scale      1, 2, 4 or 8\n\n"
     "The bits are those of decoding all of it. Raises ValueError with a reason where that is not sure, and for bad\n"
     "arguments; `into` may then have been written to."},
    {NULL, NULL, 0, NULL},
};

static int add_library(PyObject *module)
{
    return PyModule_AddStringConstant(module, "library", LIBRARY);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, add_library},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "instar_jpeg",
    .m_doc = "The pixels under a box of a JPEG, without decoding what lies beside or below it.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit_instar_jpeg(void)
{
    return PyModuleDef_Init(&definition);
}
