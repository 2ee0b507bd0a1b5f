/* The options of ckmerge, see flags.h. */
#include "merge/flags.h"

#include <stdlib.h>

ck_merge_flags ck_flags;

static const ck_option options[] = {
    {.name = "alpha",
     .letter = 'a',
     .argument = "A",
     .type = CK_OPT_NUMBER,
     .value = &ck_flags.alpha,
     .given = &ck_flags.alpha_given,
     .help = "share of the second model (weighted-sum, default 0.5) or strength of the difference "
             "(add-difference, default 1)"},
    {.name = "method",
     .letter = 'm',
     .argument = "NAME",
     .type = CK_OPT_TEXT,
     .value = &ck_flags.method,
     .help = "how to combine the models: see `ckmerge methods`; default: weighted-sum, or linear "
             "with --weight"},
    {.name = "weight",
     .letter = 'w',
     .argument = "W1,W2,...",
     .type = CK_OPT_TEXT,
     .value = &ck_flags.weight,
     .help = "one weight for each model (linear)"},
    {.name = "density",
     .argument = "D1,D2,...",
     .type = CK_OPT_TEXT,
     .value = &ck_flags.density,
     .help =
         "share of each model's changes that is taken (ties, dare): one number, or one for each"},
    {.name = "lambda",
     .argument = "L",
     .type = CK_OPT_NUMBER,
     .value = &ck_flags.lambda,
     .given = &ck_flags.lambda_given,
     .help = "factor for all changes together (task-arithmetic, ties, dare, della, breadcrumbs)"},
    {.name = "compat",
     .argument = "TOOL",
     .type = CK_OPT_CHOICE,
     .value = &ck_flags.compat,
     .choices = "a1111|supermerger|comfy|mergekit|mecha",
     .help = "give the result of another tool where it differs; `ckmerge help METHOD` says how"},
    {.name = "base",
     .argument = "MODEL",
     .type = CK_OPT_TEXT,
     .value = &ck_flags.base,
     .help = "the model that the others were trained from (task-arithmetic, ties, dare, "
             "model-stock): counts as the first"},
    {.name = "rebasin",
     .type = CK_OPT_FLAG,
     .value = &ck_flags.rebasin,
     .help =
         "first bring the other models' channels into the order nearest to the first one's (git "
         "re-basin: SD1, SD2, SDXL); takes minutes"},
    {.name = "lora",
     .argument = "FILE[:STRENGTH[:lbw=WEIGHTS]]",
     .type = CK_OPT_LIST,
     .value = &ck_flags.loras,
     .help =
         "apply a LoRA to the model, or to what the models are merged to (strength: default 1); "
         "lbw: a factor for each block, as --block-weights has them or as \"LoRA block weight\" "
         "(17 or 12 numbers); may be given several times"},
    CK_BLOCK_OPTIONS(ck_flags.blocks),
    {.name = "normalize",
     .argument = "on|off",
     .type = CK_OPT_CHOICE,
     .value = &ck_flags.normalize,
     .choices = "on|off",
     .help = "divide by the sum of the weights (methods that have weights; each has its own "
             "default, see `ckmerge help METHOD`)"},
    {.name = "set",
     .argument = "NAME=VALUE",
     .type = CK_OPT_LIST,
     .value = &ck_flags.set,
     .help = "a parameter of the method (one number is for all models), or with --recipe a "
             "variable of the recipe"},
    {.name = "rule",
     .argument = "PATTERN=WHAT",
     .type = CK_OPT_LIST,
     .value = &ck_flags.rules,
     .help = "for tensors whose names match the glob: a number for the first parameter, exclude "
             "(keep A's), drop, or copy:b (take model b's). The first rule that matches wins; the "
             "models are called a, b, c, ..."},
    {.name = "sweep",
     .argument = "NAME=FROM:TO:STEP",
     .type = CK_OPT_TEXT,
     .value = &ck_flags.sweep,
     .help =
         "one output for each value of a parameter (with --recipe: of a variable), of a range or "
         "of a list VALUE,VALUE,...; the models are read once, and memory is that of one merge (of "
         "methods that look at whole tensors, and the largest tensor of each model)"},
    {.name = "output",
     .letter = 'o',
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &ck_flags.output,
     .help = "the merged file; default: named from the models and alpha, in the current folder"},
    {.name = "force",
     .letter = 'f',
     .type = CK_OPT_FLAG,
     .value = &ck_flags.force,
     .help = "replace existing files"},
    {.name = "resume",
     .type = CK_OPT_FLAG,
     .value = &ck_flags.resume,
     .help =
         "keep what is done in OUTPUT.partial when the merge is interrupted or killed; the same "
         "command then goes on with it"},
    {.name = "dtype",
     .argument = "D",
     .type = CK_OPT_CHOICE,
     .value = &ck_flags.dtype,
     .choices = CK_DTYPE_WORDS,
     .help = "type of the result's float tensors: keep (A's, default), f32, f16, bf16, f8_e4m3, "
             "f8_e5m2"},
    {.name = "missing",
     .argument = "P",
     .type = CK_OPT_CHOICE,
     .value = &ck_flags.missing,
     .choices = CK_MISSING_WORDS,
     .help = "tensor of A that another model lacks: keep A's (default), drop, or error"},
    {.name = "extra",
     .argument = "P",
     .type = CK_OPT_CHOICE,
     .value = &ck_flags.extra,
     .choices = CK_EXTRA_WORDS,
     .help = "tensor that only another model has: drop (default) or keep"},
    {.name = "shape",
     .argument = "P",
     .type = CK_OPT_CHOICE,
     .value = &ck_flags.shape,
     .choices = CK_SHAPE_WORDS,
     .help = "shapes that differ: error (default), or inpaint: of a 9- or 8-channel A and "
             "4-channel others, mix the first four input channels"},
    {.name = "unmatched",
     .argument = "P",
     .type = CK_OPT_CHOICE,
     .value = &ck_flags.unmatched,
     .choices = CK_UNMATCHED_WORDS,
     .help = "layers of a LoRA that the model lacks: error (default), or skip, with a warning"},
    {.name = "recipe",
     .letter = 'r',
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &ck_flags.recipe,
     .help = "merge what this recipe says: ours (JSON), mergekit's (YAML) or sd-mecha's (.mecha)"},
    {.name = "replay",
     .argument = "MERGED",
     .type = CK_OPT_TEXT,
     .value = &ck_flags.replay,
     .help = "make this merged file again from what its metadata says: ours, the web UI's, "
             "supermerger's or sd-mecha's. The models are found in --model-dir by their hashes"},
    {.name = "model-dir",
     .argument = "DIR",
     .type = CK_OPT_LIST,
     .value = &ck_flags.model_dirs,
     .help =
         "where the models lie that a recipe of another tool names; may be given several times; "
         "default: beside the recipe, or here"},
    {.name = "write-recipe",
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &ck_flags.write_recipe,
     .help = "write the recipe of this merge"},
    {.name = "lock",
     .type = CK_OPT_FLAG,
     .value = &ck_flags.lock,
     .help = "with --write-recipe: record the sha256 of models and output; replaying the recipe "
             "then checks them"},
    {.name = "hash-models",
     .type = CK_OPT_FLAG,
     .value = &ck_flags.hash_models,
     .help = "hash the models first, so that the output's metadata names them by sha256"},
    {.name = "dry-run",
     .letter = 'n',
     .type = CK_OPT_FLAG,
     .value = &ck_flags.dry_run,
     .help = "print what would become of every tensor, write nothing"},
    {.name = "svg",
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &ck_flags.svg,
     .help = "for explain: write a picture of the numbers of every block"},
    {.name = "json",
     .type = CK_OPT_FLAG,
     .value = &ck_flags.json,
     .help = "report on standard output as one JSON document"},
    {.name = "quiet",
     .letter = 'q',
     .type = CK_OPT_FLAG,
     .value = &ck_flags.quiet,
     .help = "print errors only"},
    {.name = "threads",
     .letter = 't',
     .argument = "N",
     .type = CK_OPT_COUNT,
     .value = &ck_flags.threads,
     .help = "worker threads (default: processors + 4); the result does not depend on it"},
    {.name = "seed",
     .argument = "N",
     .type = CK_OPT_COUNT,
     .value = &ck_flags.seed,
     .given = &ck_flags.seed_given,
     .help = "seed of methods that use random numbers (default 0)"},
    {0},
};

const ck_command ck_flags_command = {
    .name = "ckmerge",
    .summary = "merge checkpoints of image-generation models",
    .synopsis = "A B [-o OUT] --alpha 0.3\n"
                "A B C [-o OUT] --method add-difference --alpha 0.7\n"
                "MODEL... [-o OUT] --weight W1,W2,...\n"
                "MODEL [-o OUT] --lora FILE:0.8 [--lora FILE...]\n"
                "--recipe FILE [-o OUT] [--model-dir DIR]\n"
                "--replay MERGED --model-dir DIR [-o OUT]\n"
                "explain RECIPE | MODEL... [--svg FILE]\n"
                "methods\n"
                "presets\n"
                "help METHOD",
    .details =
        "The first model, A, decides which tensors the result has, their shapes and, unless "
        "--dtype "
        "says otherwise, their types. Models are read and the result is written block by block: "
        "memory stays below 64 MiB whatever their size (--rebasin: 150 MB). The result is written "
        "whole or not at all, "
        "and may replace one of the models (--force). Models may be of any format that can be "
        "read, and of "
        "different layouts: names are mapped to A's. The same recipe gives the same bytes with "
        "any "
        "number of threads on any processor.\n"
        "What is said about a tensor in several ways counts in this order: --rule, --elemental, "
        "--component, --block-weights, --alpha. With --recipe the flags about blocks are for its "
        "outermost method, and come before its own rules.\n"
        "Arithmetic is f32 with one rounding to the type of the result. Integer tensors and "
        "position_ids are A's, bit for bit. Values too large for the result's type become infinite "
        "(f8: the largest "
        "value) and are counted.",
    .options = options,
    .examples = "$ ckmerge anime.safetensors photo.safetensors --alpha 0.3\n"
                "  30% photo, 70% anime, to anime-photo-0.3.safetensors\n"
                "$ ckmerge mine.safetensors tuned.safetensors base.safetensors -m add-difference\n"
                "  what tuned learned over base, added to mine\n"
                "$ ckmerge a.safetensors b.safetensors --rule 'first_stage_model.*=exclude' -n\n"
                "  what would happen if the VAE stayed a's\n"
                "$ ckmerge base.safetensors --lora style.safetensors:0.8 --lora hands.safetensors\n"
                "  the model with two LoRAs in it\n"
                "$ ckmerge a.safetensors b.safetensors --sweep alpha=0:1:0.1\n"
                "  eleven mixes, a-b-alpha-0.safetensors to a-b-alpha-1.safetensors\n"
                "$ ckmerge --replay merged.safetensors --model-dir ~/models\n"
                "  the same merge again, from the models that its metadata names\n"
                "$ ckmerge a.safetensors b.safetensors --write-recipe mix.json --lock\n"
                "  and remember how it was made",
    .files = true,
};

static const ck_command *const commands[] = {&ck_flags_command};
const ck_program ck_flags_program = {
    .name = "ckmerge",
    .summary = "merge checkpoints of image-generation models",
    .version = CK_VERSION,
    .commands = commands,
    .command_count = 1,
    .exit_status =
        "0 done; 1 a model, recipe or disk failed; 2 wrong usage; 130 interrupted. "
        "Whatever happens, no partial output is left, but for OUTPUT.partial with --resume.",
};

void ck_flags_free(void) {
    free(ck_flags.set.items);
    free(ck_flags.rules.items);
    free(ck_flags.loras.items);
    free(ck_flags.model_dirs.items);
    ck_block_flags_free(&ck_flags.blocks);
}
