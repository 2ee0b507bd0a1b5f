/* ckdistill cache: encodes a run's data once. See cache.h. */
#include "io/interrupt.h"
#include "distill/run/task.h"
#include "distill/tools.h"

#include <stdlib.h>

static ck_text_list sets;
static const char *device = "cpu";

static const ck_option options[] = {
    {.name = "set",
     .argument = "KEY=VALUE",
     .type = CK_OPT_LIST,
     .value = &sets,
     .help = "a setting over the config's, such as data.cache_dtype=f16; can be given again"},
    CK_OPTION_DEVICE(device, "what computes (default cpu)"),
    {0},
};

static const ck_command command = {
    .name = "ckdistill cache",
    .summary = "encode a run's images and captions once, into a file",
    .synopsis = "CONFIG.json [--set KEY=VALUE]... [--device D]",
    .details =
        "Makes the file that the config names as data.cache; runs with that config then read "
        "it, a batch ahead, and keep nothing of it in memory. Stopped or killed, the same "
        "command goes on where it was. A file that was made of other data or by other "
        "encoders is refused by runs and replaced by this command.",
    .options = options,
    .examples = "$ ckdistill cache recipes/distill/fashion-lcm.json --set data.cache=photos.h5\n"
                "  then: ckdistill run recipes/distill/fashion-lcm.json --set data.cache=photos.h5",
    .files = true,
};

static ck_status run(const char *const *operands, size_t count, ck_error *err) {
    (void)count;
    ck_config *c;
    const ck_backend *backend;
    ck_status s = ck_config_load(operands[0], sets.items, sets.count, &c, err);
    free(sets.items);
    CK_TRY(s);
    s = ck_backend_open(device, &backend, err);
    ck_interrupt_begin("\nstopping after this image\n");
    if (s == CK_OK) s = ck_task_cache(c, backend, err);
    ck_interrupt_end();
    ck_config_free(c);
    return s;
}

const ck_tool ck_tool_cache = {
    .command = &command, .min_operands = 1, .max_operands = 1, .run = run};
