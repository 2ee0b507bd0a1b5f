/* PNG through libpng. Its errors jump; whatever has to be released then is in the struct that it
 * gets as its user pointer. Without libpng (make PNG=no) both functions say so. */
#include "distill/data/image_int.h"

#ifdef CK_HAVE_PNG

#include "io/os.h"
#include "io/writer.h"

#include <png.h>
#include <stdlib.h>
#include <string.h>

/* Deflate makes of one byte at most this many. */
enum { MOST_INFLATED = 1032 };

typedef struct stream {
    const char *name;
    ck_error *err;
    ck_status status; /* of the failure that made libpng jump */
    bool out_of_memory;
    /* Reading: n bytes, of which `at` are used. Writing: `at` bytes, room for n, owned. */
    uint8_t *data;
    size_t n, at;
    png_bytep *rows; /* owned */
} stream;

static void on_error(png_structp png, png_const_charp message) {
    stream *s = png_get_error_ptr(png);
    if (s->out_of_memory)
        s->status = ck_fail_memory(s->err, s->name);
    else
        s->status =
            ck_fail(s->err, CK_INPUT, "%s: PNG, before offset %zu: %s", s->name, s->at, message);
    png_longjmp(png, 1);
}

/* What libpng can live with, such as a strange chunk that is not needed. */
static void on_warning(png_structp png, png_const_charp message) {
    (void)png, (void)message;
}

static png_voidp allocate(png_structp png, png_alloc_size_t n) {
    void *p = ck_alloc(n);
    if (!p) ((stream *)png_get_mem_ptr(png))->out_of_memory = true;
    return p;
}

static void release(png_structp png, png_voidp p) {
    (void)png;
    free(p);
}

static void point_at_rows(stream *s, png_structp png, const ck_image *image) {
    s->rows = ck_alloc_array(image->height, sizeof *s->rows);
    s->out_of_memory = !s->rows;
    if (!s->rows) png_error(png, "");
    for (size_t y = 0; y < image->height; y++)
        s->rows[y] = image->pixels + y * image->width * image->channels;
}

/* ---- Reading ---- */

static void on_read(png_structp png, png_bytep to, size_t n) {
    stream *s = png_get_io_ptr(png);
    if (n > s->n - s->at) png_error(png, "the file ends too early");
    memcpy(to, s->data + s->at, n);
    s->at += n;
}

/* Sets up that rows come as 8 bits of 1 or 3 channels. */
static size_t set_transforms(png_structp png, png_infop info) {
    int color = png_get_color_type(png, info);
    png_set_scale_16(png);
    png_set_expand(png);
    png_set_strip_alpha(png);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    return color == PNG_COLOR_TYPE_GRAY || color == PNG_COLOR_TYPE_GRAY_ALPHA ? 1 : 3;
}

/* Everything that may jump. */
static ck_status decode(stream *s, png_structp png, png_infop info, ck_image *image) {
    if (setjmp(png_jmpbuf(png))) return s->status;
    png_set_read_fn(png, s, on_read);
    png_set_user_limits(png, CK_IMAGE_SIDE, CK_IMAGE_SIDE);
    png_set_chunk_malloc_max(png, 8 << 20);
    png_read_info(png, info);
    size_t width = png_get_image_width(png, info), height = png_get_image_height(png, info);
    CK_TRY(ck_image__check_size(s->name, width, height, s->err));
    if (png_get_rowbytes(png, info) * height / MOST_INFLATED > s->n)
        return ck_fail(s->err, CK_INPUT, "%s: %zux%zu pixels cannot be in %zu bytes", s->name,
                       width, height, s->n);
    CK_TRY(ck_image_make(width, height, set_transforms(png, info), image, s->err));
    point_at_rows(s, png, image);
    png_read_image(png, s->rows);
    png_read_end(png, NULL);
    return CK_OK;
}

ck_status ck_image__parse_png(const char *name, const uint8_t *data, size_t n, ck_image *image,
                              ck_error *err) {
    stream s = {.name = name, .err = err, .data = (uint8_t *)data, .n = n};
    png_structp png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &s, on_error, on_warning, &s,
                                               allocate, release);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    ck_status status = info ? decode(&s, png, info, image) : ck_fail_memory(err, name);
    png_destroy_read_struct(&png, &info, NULL);
    free(s.rows);
    if (status != CK_OK) ck_image_free(image);
    return status;
}

/* ---- Writing ---- */

static void on_write(png_structp png, png_bytep from, size_t n) {
    stream *s = png_get_io_ptr(png);
    if (n > s->n - s->at) {
        size_t room = 2 * s->n > s->at + n ? 2 * s->n : s->at + n;
        uint8_t *grown = ck_os.realloc(s->data, room);
        s->out_of_memory = !grown;
        if (!grown) png_error(png, "");
        s->data = grown;
        s->n = room;
    }
    memcpy(s->data + s->at, from, n);
    s->at += n;
}

static void on_flush(png_structp png) {
    (void)png;
}

/* One text: as tEXt, which everything reads, if it is ASCII, else as iTXt, which is UTF-8. */
static void write_text(png_structp png, png_infop info, const ck_image_text *text) {
    bool ascii = true;
    for (const char *c = text->value; *c; c++) ascii &= !(*c & 0x80);
    png_text entry = {.compression = ascii ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE,
                      .key = (png_charp)text->key,
                      .text = (png_charp)text->value};
    png_set_text(png, info, &entry, 1);
}

static ck_status encode(stream *s, png_structp png, png_infop info, const ck_image *image,
                        const ck_image_text *texts, size_t text_count) {
    if (setjmp(png_jmpbuf(png))) return s->status;
    png_set_write_fn(png, s, on_write, on_flush);
    png_set_IHDR(png, info, (png_uint_32)image->width, (png_uint_32)image->height, 8,
                 image->channels == 3 ? PNG_COLOR_TYPE_RGB : PNG_COLOR_TYPE_GRAY,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    for (size_t i = 0; i < text_count; i++) write_text(png, info, &texts[i]);
    point_at_rows(s, png, image);
    png_write_info(png, info);
    png_write_image(png, s->rows);
    png_write_end(png, info);
    return CK_OK;
}

ck_status ck_image_write(const char *path, const ck_image *image, const ck_image_text *texts,
                         size_t text_count, bool replace, ck_error *err) {
    stream s = {.name = path, .err = err};
    png_structp png = png_create_write_struct_2(PNG_LIBPNG_VER_STRING, &s, on_error, on_warning, &s,
                                                allocate, release);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    ck_status status =
        info ? encode(&s, png, info, image, texts, text_count) : ck_fail_memory(err, path);
    png_destroy_write_struct(&png, &info);
    if (status == CK_OK) status = ck_write_file(path, (const char *)s.data, s.at, replace, err);
    free(s.rows);
    free(s.data);
    return status;
}

#else

ck_status ck_image__parse_png(const char *name, const uint8_t *data, size_t n, ck_image *image,
                              ck_error *err) {
    (void)data, (void)n, (void)image;
    return ck_fail(err, CK_USAGE, "%s: PNG; this program was made without libpng", name);
}

ck_status ck_image_write(const char *path, const ck_image *image, const ck_image_text *texts,
                         size_t text_count, bool replace, ck_error *err) {
    (void)image, (void)texts, (void)text_count, (void)replace;
    return ck_fail(err, CK_USAGE, "%s: PNG; this program was made without libpng", path);
}

#endif
