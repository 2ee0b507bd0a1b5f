/* ckdistill: trains and distils image models, and samples from them. The table of its commands, and
 * main. */
#include "distill/tools.h"
#include "merge/recipe.h"

#include <malloc.h>

static const ck_tool *const tools[] = {
    &ck_tool_sample, &ck_tool_info, &ck_tool_run,    &ck_tool_finetune, &ck_tool_cache,
    &ck_tool_resume, &ck_tool_eval, &ck_tool_report, &ck_tool_methods,
};
enum { TOOLS = sizeof tools / sizeof *tools };

int main(int argc, char **argv) {
    const ck_command *commands[TOOLS];
    for (size_t i = 0; i < TOOLS; i++) commands[i] = tools[i]->command;
    const ck_program program = {
        .name = "ckdistill",
        .summary = "make fast models of slow ones: few-step distillation on what hardware there is",
        .version = CK_VERSION,
        .commands = commands,
        .command_count = TOOLS,
        .exit_status = "0 done; 1 an error, and what was saved is whole; 2 wrong usage; 130 "
                       "stopped on request, after saving.",
    };
#ifdef M_MMAP_THRESHOLD
    /* glibc would move this up, and keep what weights that are read leave between them: a quarter
     * of a model's memory. */
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
    return ck_tool_main(&program, tools, argc, argv);
}
