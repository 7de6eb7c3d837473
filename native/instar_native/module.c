/* What Python sees: arguments are looked at here, and the lock of the interpreter is let go for the work. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>

#include "jpeg.h"
#include "resize.h"
#include "table.h"

/* Pixels a side that any picture here has: as many as a JPEG can have. */
#define MOST_PIXELS 65500

/* What is wrong with an array of pixels; NULL for nothing. */
static const char *wrong_with(const Py_buffer *array)
{
    if (array->ndim != 3 || array->itemsize != 1 || (array->format != NULL && strcmp(array->format, "B") != 0))
        return "an array must be uint8 of rows x columns x colours";
    Py_ssize_t colours = array->shape[2];
    if (colours != 1 && colours != 3)
        return "an array must have 1 or 3 bytes a pixel";
    if (array->shape[0] < 1 || array->shape[1] < 1)
        return "an array must have a pixel";
    if (array->shape[0] > MOST_PIXELS || array->shape[1] > MOST_PIXELS)
        return "an array is larger than any JPEG";
    /* NumPy may say anything about the stride of an axis of length 1. */
    if ((colours > 1 && array->strides[2] != 1) || (array->shape[1] > 1 && array->strides[1] != colours))
        return "an array must have the pixels of a row side by side";
    return NULL;
}

static void fill_in(Wish *wish, const Py_buffer *into)
{
    wish->out_height = (size_t)into->shape[0];
    wish->out_width = (size_t)into->shape[1];
    wish->colours = (size_t)into->shape[2];
    wish->into = into->buf;
    wish->row_bytes = into->strides[0];
}

/* Both buffers, or none and an exception. */
static int both(PyObject *from_of, Py_buffer *from, int from_flags, PyObject *into_of, Py_buffer *into)
{
    if (PyObject_GetBuffer(from_of, from, from_flags) != 0)
        return 0;
    if (PyObject_GetBuffer(into_of, into, PyBUF_STRIDES | PyBUF_FORMAT | PyBUF_WRITABLE) == 0)
        return 1;
    PyBuffer_Release(from);
    return 0;
}

static PyObject *done_with(Py_buffer *from, Py_buffer *into, const char *wrong)
{
    PyBuffer_Release(from);
    PyBuffer_Release(into);
    if (wrong == NULL)
        return Py_NewRef(Py_None);
    PyErr_SetString(PyExc_ValueError, wrong);
    return NULL;
}

static PyObject *jpeg(PyObject *module, PyObject *arguments)
{
    PyObject *data_of, *into_of;
    Py_buffer data, into;
    int scale;
    Wish wish = {0};
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OO(ffff)pppi:jpeg", &data_of, &into_of, &wish.left, &wish.top, &wish.right,
                          &wish.bottom, &wish.pytorch, &wish.mirrored, &wish.upside_down, &scale))
        return NULL;
    if (!both(data_of, &data, PyBUF_SIMPLE, into_of, &into))
        return NULL;
    char reason[REASON] = "";
    const char *wrong = data.len < 4 ? "no image in it" : wrong_with(&into);
    if (wrong == NULL && scale != 1 && scale != 2 && scale != 4 && scale != 8)
        wrong = "scale must be 1, 2, 4 or 8";
    if (wrong == NULL) {
        int shown;
        fill_in(&wish, &into);
        Py_BEGIN_ALLOW_THREADS
        shown = jpeg_show(data.buf, (size_t)data.len, (unsigned int)scale, &wish, reason);
        Py_END_ALLOW_THREADS
        wrong = shown ? NULL : reason;
    }
    return done_with(&data, &into, wrong);
}

static PyObject *array(PyObject *module, PyObject *arguments)
{
    PyObject *from_of, *into_of;
    Py_buffer from, into;
    Wish wish = {0};
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OO(ffff)ppp:array", &from_of, &into_of, &wish.left, &wish.top, &wish.right,
                          &wish.bottom, &wish.pytorch, &wish.mirrored, &wish.upside_down))
        return NULL;
    if (!both(from_of, &from, PyBUF_STRIDES | PyBUF_FORMAT, into_of, &into))
        return NULL;
    const char *wrong = wrong_with(&from);
    wrong = wrong != NULL ? wrong : wrong_with(&into);
    if (wrong == NULL && from.shape[2] != into.shape[2])
        wrong = "both arrays must have as many colours";
    if (wrong == NULL) {
        fill_in(&wish, &into);
        wish.height = (size_t)from.shape[0];
        wish.width = (size_t)from.shape[1];
        Py_BEGIN_ALLOW_THREADS
        wrong = resize_rows(&wish, from.buf, from.strides[0]);
        Py_END_ALLOW_THREADS
    }
    return done_with(&from, &into, wrong);
}

static PyObject *table(PyObject *module, PyObject *arguments)
{
    PyObject *text_of, *into_of;
    Py_buffer text, into;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OO:table", &text_of, &into_of))
        return NULL;
    if (!both(text_of, &text, PyBUF_SIMPLE, into_of, &into))
        return NULL;
    const char *wrong = NULL;
    if (into.ndim != 2 || into.format == NULL || strcmp(into.format, "f") != 0 || !PyBuffer_IsContiguous(&into, 'C'))
        wrong = "the array must be float32 of rows x columns, in one piece";
    if (wrong == NULL) {
        int read;
        Py_BEGIN_ALLOW_THREADS
        read = table_read(text.buf, (size_t)text.len, into.buf, (size_t)into.shape[1], (size_t)into.shape[0]);
        Py_END_ALLOW_THREADS
        wrong = read ? NULL : "not all of it is plain numbers, so many in so many rows";
    }
    return done_with(&text, &into, wrong);
}

static PyMethodDef functions[] = {
    {"jpeg", jpeg, METH_VARARGS,
     "jpeg(data, into, box, pytorch, mirrored, upside_down, scale)\n--\n\n"
     "Fill an array with what is under a box of a JPEG, resized (antialiased, bilinear).\n\n"
     "data     the bytes of the file\n"
     "into     uint8, rows x columns x colours: 1 for grey, 3 for RGB\n"
     "box      left, top, right, bottom in pixels of the image `scale` times smaller than the stored one\n"
     "pytorch  to the bits of PyTorch's uint8 kernel on what is under a box of whole pixels, not of Pillow's\n"
     "scale    1, 2, 4 or 8\n\n"
     "The bits are those of decoding and resizing all of it. Raises ValueError with a reason where that is not sure, and\n"
     "for bad arguments; `into` may then have been written to."},
    {"array", array, METH_VARARGS,
     "array(pixels, into, box, pytorch, mirrored, upside_down)\n--\n\n"
     "As `jpeg`, from an array of pixels."},
    {"table", table, METH_VARARGS,
     "table(text, into)\n--\n\n"
     "Fill float32 of rows x columns with the numbers of a text: ; between those of a line, each line ended.\n\n"
     "Raises ValueError where anything but plain decimal numbers is in it; `into` may then have been written to."},
    {NULL, NULL, 0, NULL},
};

static int add_library(PyObject *module)
{
    return PyModule_AddStringConstant(module, "library", jpeg_library());
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, add_library},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "instar_native",
    .m_doc = "Pixels under a box, resized, and tables of numbers: where Python takes too long, to the same bits.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit_instar_native(void)
{
    return PyModuleDef_Init(&definition);
}
