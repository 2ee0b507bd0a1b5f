/* JPEG through libjpeg, read only. Its errors jump, too; its memory is its own (malloc), limited.
 * Without libjpeg (make JPEG=no) the function says so. */
#include "distill/data/image_int.h"

#ifdef CK_HAVE_JPEG

#include <setjmp.h>
#include <stdio.h>

#include <jpeglib.h>

#include <jerror.h>

/* A progressive file of few bytes can scan so many pixels so many times that it takes hours. */
enum { MAX_SCANS = 200, MAX_MEMORY = 512 << 20 };

typedef struct decoder {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf jump;
    const char *name;
    ck_error *err;
    ck_status status;
} decoder;

static void on_error(j_common_ptr jpeg) {
    decoder *d = jpeg->client_data;
    char message[JMSG_LENGTH_MAX];
    jpeg->err->format_message(jpeg, message);
    d->status = jpeg->err->msg_code == JERR_OUT_OF_MEMORY
                    ? ck_fail_memory(d->err, d->name)
                    : ck_fail(d->err, CK_INPUT, "%s: JPEG: %s", d->name, message);
    longjmp(d->jump, 1);
}

/* Warnings mean damaged data, which libjpeg would show as gray areas. */
static void on_message(j_common_ptr jpeg, int level) {
    if (level < 0) on_error(jpeg);
}

static void on_progress(j_common_ptr jpeg) {
    decoder *d = jpeg->client_data;
    if (d->jpeg.input_scan_number <= MAX_SCANS) return;
    d->status = ck_fail(d->err, CK_INPUT, "%s: JPEG: more than %d scans", d->name, MAX_SCANS);
    longjmp(d->jump, 1);
}

/* Everything that may jump. */
static ck_status decode(decoder *d, const uint8_t *data, size_t n, ck_image *image) {
    struct jpeg_decompress_struct *jpeg = &d->jpeg;
    if (setjmp(d->jump)) return d->status;
    jpeg_create_decompress(jpeg);
    jpeg->client_data = d;
    jpeg->progress = &d->progress;
    jpeg->mem->max_memory_to_use = MAX_MEMORY;
    jpeg_mem_src(jpeg, data, n);
    jpeg_read_header(jpeg, TRUE);
    CK_TRY(ck_image__check_size(d->name, jpeg->image_width, jpeg->image_height, d->err));
    if (jpeg->num_components != 1 && jpeg->num_components != 3)
        return ck_fail(d->err, CK_INPUT, "%s: JPEG with %d channels", d->name,
                       jpeg->num_components);
    size_t channels = jpeg->num_components == 1 ? 1 : 3;
    jpeg->out_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    CK_TRY(ck_image_make(jpeg->image_width, jpeg->image_height, channels, image, d->err));
    jpeg_start_decompress(jpeg);
    while (jpeg->output_scanline < jpeg->output_height) {
        JSAMPROW row = image->pixels + jpeg->output_scanline * image->width * channels;
        jpeg_read_scanlines(jpeg, &row, 1);
    }
    jpeg_finish_decompress(jpeg);
    return CK_OK;
}

ck_status ck_image__parse_jpeg(const char *name, const uint8_t *data, size_t n, ck_image *image,
                               ck_error *err) {
    decoder d = {.name = name, .err = err};
    d.jpeg.err = jpeg_std_error(&d.errors);
    d.jpeg.client_data = &d; /* errors may come before jpeg_create_decompress has set anything */
    d.errors.error_exit = on_error;
    d.errors.emit_message = on_message;
    d.progress.progress_monitor = on_progress;
    ck_status status = decode(&d, data, n, image);
    jpeg_destroy_decompress(&d.jpeg);
    if (status != CK_OK) ck_image_free(image);
    return status;
}

#else

ck_status ck_image__parse_jpeg(const char *name, const uint8_t *data, size_t n, ck_image *image,
                               ck_error *err) {
    (void)data, (void)n, (void)image;
    return ck_fail(err, CK_USAGE, "%s: JPEG; this program was made without libjpeg", name);
}

#endif
