/* ckdistill sample: pictures of a model. */
#include "distill/models/generate.h"
#include "distill/data/image.h"
#include "distill/diffusion/sampler.h"
#include "distill/tools.h"
#include "io/os.h"
#include "io/view.h"
#include "io/writer.h"
#include "merge/save.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ck_model_parts parts;
static const char *folder, *prompt = "", *negative = "", *sampler, *size_text;
static const char *output = "sample.png", *latents_in, *latents_out, *spacing, *prediction;
static const char *device = "cpu";
static double cfg = NAN, eta = NAN, shift;
static uint64_t steps = 20, count = 1, seed;
static bool quiet, force, karras, zero_snr, shift_given;

static const ck_option options[] = {
    {.name = "model",
     .letter = 'm',
     .argument = "MODEL",
     .type = CK_OPT_TEXT,
     .value = &folder,
     .help =
         "a folder as diffusers lays it out (Stable Diffusion 1, 2, XL, 3, FLUX), or one file of "
         "such a model"},
    {.name = "tokenizer",
     .argument = "DIR",
     .type = CK_OPT_TEXT,
     .value = &parts.tokenizer,
     .help = "for a model in one file: a folder with vocab.json and merges.txt, and T5's "
             "tokenizer.json or spiece.model; or with the folders tokenizer, tokenizer_2, ... of "
             "diffusers"},
    {.name = "unet",
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &parts.unet,
     .help = "another UNet or transformer: a student, a merge; of a file with a whole model, that "
             "part"},
    {.name = "clip",
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &parts.clip,
     .help = "another (first) text encoder, or that of a file that has none"},
    {.name = "clip2",
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &parts.clip2,
     .help = "another second CLIP encoder (SDXL, SD3)"},
    {.name = "t5",
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &parts.t5,
     .help = "another T5 encoder (SD3, FLUX)"},
    {.name = "vae",
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &parts.vae,
     .help = "another VAE, or that of a file that has none"},
    {.name = "prompt",
     .letter = 'p',
     .argument = "TEXT",
     .type = CK_OPT_TEXT,
     .value = &prompt,
     .help = "what is to be seen"},
    {.name = "negative",
     .argument = "TEXT",
     .type = CK_OPT_TEXT,
     .value = &negative,
     .help = "what is not"},
    {.name = "steps",
     .letter = 's',
     .argument = "N",
     .type = CK_OPT_COUNT,
     .value = &steps,
     .help = "steps (default 20)"},
    {.name = "sampler",
     .argument = "NAME",
     .type = CK_OPT_CHOICE,
     .value = &sampler,
     .choices = "ddim|euler|euler_a|dpmpp_2m|lcm|tcd|flow_euler",
     .help = "ddim, euler, euler_a, dpmpp_2m, lcm, tcd or flow_euler (default: what the model's "
             "scheduler says)"},
    {.name = "cfg",
     .argument = "G",
     .type = CK_OPT_NUMBER,
     .value = &cfg,
     .help = "classifier-free guidance (default 7); 1 for distilled models: one pass a step. What "
             "FLUX is told (default 3.5; schnell 1)"},
    {.name = "size",
     .argument = "WxH",
     .type = CK_OPT_TEXT,
     .value = &size_text,
     .help = "of the images (default: what the model was trained on)"},
    {.name = "count",
     .letter = 'n',
     .argument = "N",
     .type = CK_OPT_COUNT,
     .value = &count,
     .help = "how many images (default 1); image k has seed SEED + k"},
    {.name = "seed",
     .argument = "N",
     .type = CK_OPT_COUNT,
     .value = &seed,
     .help = "of the noise (default 0); the same on every machine"},
    {.name = "spacing",
     .argument = "S",
     .type = CK_OPT_CHOICE,
     .value = &spacing,
     .choices = "leading|trailing|linspace",
     .help = "which timesteps: leading, trailing (for few steps) or linspace (default: what the "
             "model's scheduler says)"},
    {.name = "prediction",
     .argument = "P",
     .type = CK_OPT_CHOICE,
     .value = &prediction,
     .choices = "epsilon|sample|v|flow",
     .help = "what the network predicts: epsilon, sample, v or flow (default: what the model's "
             "scheduler says)"},
    {.name = "karras",
     .type = CK_OPT_FLAG,
     .value = &karras,
     .help = "noise levels as Karras et al. space them (euler, euler_a, dpmpp_2m)"},
    {.name = "zero-snr",
     .type = CK_OPT_FLAG,
     .value = &zero_snr,
     .help = "noise levels rescaled so that the first is pure noise"},
    {.name = "shift",
     .argument = "X",
     .type = CK_OPT_NUMBER,
     .value = &shift,
     .given = &shift_given,
     .help = "of flow models' times towards noise, instead of the model's"},
    {.name = "eta",
     .argument = "E",
     .type = CK_OPT_NUMBER,
     .value = &eta,
     .help = "how random the steps are, 0 to 1 (default: as the sampler usually is)"},
    {.name = "latents-in",
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &latents_in,
     .help = "begin with the tensor 'latents' of this file, N x C x H x W of unit noise"},
    {.name = "latents-out",
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &latents_out,
     .help = "write the final latents, as safetensors"},
    CK_OPTION_DEVICE(device, "what computes, a processor, a card, or a card if there is one "
                             "(default cpu)"),
    {.name = "output",
     .letter = 'o',
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &output,
     .help = "a PNG of all images (default sample.png); its text says how it was made"},
    {.name = "force",
     .letter = 'f',
     .type = CK_OPT_FLAG,
     .value = &force,
     .help = "replace existing files"},
    {.name = "quiet", .letter = 'q', .type = CK_OPT_FLAG, .value = &quiet, .help = "no progress"},
    {0},
};

static const ck_command command = {
    .name = "ckdistill sample",
    .summary = "make pictures with a model",
    .synopsis = "--model MODEL [--unet FILE] --prompt TEXT [-o OUT.png]",
    .details = "Parts can be mixed: the model gives what is not given otherwise. Noise "
               "depends on the seed alone, so pictures of a model and of its student, or of two "
               "merges, can be compared.",
    .options = options,
    .examples =
        "$ ckdistill sample --model recipes/models/base --prompt \"ankle boot\" --cfg 3 -n 8\n"
        "$ ckdistill sample --model recipes/models/base --unet recipes/models/turbo.safetensors "
        "--steps 1 --cfg 1 "
        "--spacing trailing --prompt bag\n"
        "  a student in one step\n"
        "$ ckdistill sample --model flux1-dev.safetensors --clip clip_l.safetensors --t5 "
        "t5xxl.safetensors --vae ae.safetensors --tokenizer words --prompt \"a cat\"\n"
        "  a transformer's file, and the rest of the model beside it",
};

/* ---- Settings ---- */

static ck_status parse_size(const ck_model *m, ck_generate_options *o, ck_error *err) {
    o->width = o->height = ck_model_side(m) * (size_t)ck_vae_factor(&m->vae_config);
    if (!size_text) return CK_OK;
    unsigned w, h;
    char end;
    if (strspn(size_text, "0123456789x") < strlen(size_text) ||
        sscanf(size_text, "%9ux%9u%c", &w, &h, &end) != 2)
        return ck_fail(err, CK_USAGE, "--size %s: write it as 512x512", size_text);
    o->width = w, o->height = h;
    return CK_OK;
}

static void override_schedule(ck_schedule *s) {
    static const char *const spacings[] = {"leading", "trailing", "linspace"};
    static const char *const predictions[] = {"epsilon", "sample", "v", "flow"};
    for (int i = 0; spacing && i < 3; i++)
        if (strcmp(spacing, spacings[i]) == 0) s->spacing = (ck_spacing)i;
    for (int i = 0; prediction && i < 4; i++)
        if (strcmp(prediction, predictions[i]) == 0) s->prediction = (ck_prediction)i;
    s->karras = s->karras || karras;
    s->zero_snr = s->zero_snr || zero_snr;
    if (shift_given) s->shift = shift, s->dynamic_shift = false;
}

static ck_status open_model(ck_model *m, ck_error *err) {
    if (!folder) return ck_fail(err, CK_USAGE, "--model MODEL is missing: a folder or a file");
    CK_TRY(ck_model_open(folder, &parts, m, err));
    override_schedule(&m->schedule);
    return CK_OK;
}

/* As the pipelines of these models have it. */
static double usual_cfg(const ck_model *m) {
    if (m->kind != CK_MODEL_FLUX) return 7;
    return ck_model_guided(m) ? 3.5 : 1;
}

/* ---- Latents in files ---- */

static ck_status read_latents(const ck_generate_options *o, const size_t size[3], float *latents,
                              ck_error *err) {
    ck_params *p;
    size_t index;
    CK_TRY(ck_params_open(latents_in, "", &p, err));
    int64_t n = (int64_t)(o->count * size[0] * size[1] * size[2]);
    const ck_tensor *t = ck_params_tensor(p, "latents");
    char text[96];
    ck_status s = CK_OK;
    if (!t || t->elements != (uint64_t)n || t->rank != 4 || t->shape[1] != size[0])
        s = ck_fail(err, CK_INPUT, "%s: 'latents' must have shape [%zu,%zu,%zu,%zu]%s%s",
                    latents_in, o->count, size[0], size[1], size[2], t ? ", not " : "",
                    t ? ck_tensor_shape_text(t, text, sizeof text) : "");
    /* (As K R S C, which brings C last.) */
    if (s == CK_OK)
        s = ck_params_need(
            p, "latents", 4,
            (int64_t[]){(int64_t)o->count, (int64_t)size[1], (int64_t)size[2], (int64_t)size[0]},
            &index, err);
    if (s == CK_OK)
        ck_to_channels_first(ck_params_data(p, index), o->count, size[0], size[1] * size[2],
                             latents);
    ck_params_free(p);
    return s;
}

static ck_status write_latents(const ck_generate_options *o, const size_t size[3],
                               const float *latents, ck_error *err) {
    ck_reader *view;
    CK_TRY(ck_view_new("latents", &view, err));
    const uint64_t shape[] = {o->count, size[0], size[1], size[2]};
    ck_save_options options_save = {.dtype = CK_DTYPE_COUNT, .replace = force, .quiet = true};
    ck_save_result result;
    ck_status s = ck_view_constant(view, "latents", CK_F32, 4, shape, latents, err);
    if (s == CK_OK) s = ck_view_finish(view, err);
    if (s == CK_OK) s = ck_save(view, latents_out, &options_save, &result, err);
    ck_reader_close(view);
    return s;
}

/* ---- The picture ---- */

/* As the web interfaces write it. */
static char *parameters(const ck_generate_options *o) {
    return ck_sprintf("%s%s%s\nSteps: %zu, Sampler: %s, CFG scale: %g, Seed: %llu, Size: %zux%zu, "
                      "Model: %s",
                      o->prompt, *o->negative ? "\nNegative prompt: " : "", o->negative, o->steps,
                      o->sampler, o->cfg, (unsigned long long)o->seed, o->width, o->height,
                      parts.unet ? parts.unet : folder);
}

static ck_status write_picture(const ck_generate_options *o, const float *pixels, size_t channels,
                               ck_error *err) {
    ck_image *images = ck_alloc_array(o->count, sizeof *images), grid = {0};
    char *text = parameters(o);
    ck_status s = images && text ? CK_OK : ck_fail_memory(err, output);
    size_t n = o->width * o->height * channels, columns = (size_t)ceil(sqrt((double)o->count));
    for (size_t i = 0; i < o->count && s == CK_OK; i++)
        s = ck_image_from_floats(pixels + i * n, o->width, o->height, channels, &images[i], err);
    if (s == CK_OK) s = ck_image_grid(images, o->count, columns, NULL, &grid, err);
    const ck_image_text texts[] = {{"parameters", text}};
    const ck_image *picture = o->count == 1 ? &images[0] : &grid;
    if (s == CK_OK) s = ck_image_write(output, picture, texts, 1, force, err);
    for (size_t i = 0; images && i < o->count; i++) ck_image_free(&images[i]);
    ck_image_free(&grid);
    free(images);
    free(text);
    return s;
}

static ck_status show_step(void *context, size_t done, size_t all, ck_error *err) {
    (void)err;
    double left = (ck_seconds() - *(double *)context) / (double)done * (double)(all - done);
    if (!quiet && isatty(STDERR_FILENO))
        fprintf(stderr, "\rstep %zu/%zu  %.0f s left\x1b[K%s", done, all, left,
                done == all ? "\n" : "");
    return CK_OK;
}

/* All pictures as floats, as bytes and in the grid: systems end programs that take too much. */
static ck_status check_count(const ck_generate_options *o, size_t channels, ck_error *err) {
    double bytes = 6. * (double)o->count * (double)o->width * (double)o->height * (double)channels;
    double there = (double)ck_proc_bytes("/proc/meminfo", "MemAvailable:");
    if (!there || bytes <= there) return CK_OK;
    return ck_fail(err, CK_MEMORY,
                   "%zu picture%s of %zux%zu take%s %.1f MiB, %.1f are free: make smaller ones, or "
                   "fewer at once, the next with another --seed",
                   o->count, o->count == 1 ? "" : "s", o->width, o->height,
                   o->count == 1 ? "s" : "", bytes / 0x1p20, there / 0x1p20);
}

static ck_status make(ck_model *m, const ck_backend *b, ck_generate_options *o, ck_error *err) {
    size_t size[3];
    CK_TRY(parse_size(m, o, err));
    CK_TRY(ck_generate_size(m, o, size, err));
    size_t n = o->count * size[0] * size[1] * size[2],
           channels = (size_t)m->vae_config.out_channels;
    CK_TRY(check_count(o, channels, err));
    float *latents = ck_alloc_array(n, sizeof *latents), *last = ck_alloc_array(n, sizeof *last);
    float *pixels = ck_alloc_array(o->count * o->width * o->height * channels, sizeof *pixels);
    ck_status s = latents && last && pixels ? CK_OK : ck_fail_memory(err, "images");
    if (s == CK_OK && latents_in) {
        s = read_latents(o, size, last, err);
        o->noise = last;
    }
    if (s == CK_OK) s = ck_model_check_decoder(m, b, o->count, size[1], size[2], err);
    if (s == CK_OK) s = ck_generate(m, b, o, latents, err);
    if (s == CK_OK && m->lost && !quiet)
        fprintf(stderr, "%zu tokens of the prompts found no place in a text encoder\n", m->lost);
    if (s == CK_OK && latents_out) s = write_latents(o, size, latents, err);
    if (s == CK_OK) {
        ck_params_unload(m->unet); /* room for the decoder */
        ck_to_channels_last(latents, o->count, size[0], size[1] * size[2], last);
        s = ck_model_decode(m, b, last, o->count, size[1], size[2], pixels, err);
    }
    if (s == CK_OK) s = write_picture(o, pixels, channels, err);
    free(latents), free(last), free(pixels);
    return s;
}

static ck_status run(const char *const *operands, size_t operand_count, ck_error *err) {
    (void)operands, (void)operand_count;
    const ck_backend *b;
    ck_model m;
    double start = ck_seconds();
    if (shift_given && !(shift > 0)) return ck_fail(err, CK_USAGE, "--shift must be above 0");
    if (!count || count > 4096) return ck_fail(err, CK_USAGE, "--count must be 1 to 4096");
    if (!steps) return ck_fail(err, CK_USAGE, "--steps must be at least 1");
    CK_TRY(ck_writer_check(output, force, err));
    if (latents_out) CK_TRY(ck_writer_check(latents_out, force, err));
    CK_TRY(ck_backend_open(device, &b, err));
    CK_TRY(open_model(&m, err));
    ck_generate_options o = {.prompt = prompt,
                             .negative = negative,
                             .sampler = sampler ? sampler : m.schedule.sampler,
                             .steps = steps,
                             .count = count,
                             .cfg = isnan(cfg) ? usual_cfg(&m) : cfg,
                             .eta = eta,
                             .seed = seed,
                             .step = show_step,
                             .context = &start};
    ck_status s = o.sampler ? make(&m, b, &o, err)
                            : ck_fail(err, CK_USAGE,
                                      "the model's scheduler is none that is known: choose a "
                                      "--sampler");
    ck_model_close(&m);
    return s;
}

const ck_tool ck_tool_sample = {
    .command = &command, .min_operands = 0, .max_operands = 0, .run = run};
