/* The commands of ckdistill: one file each, one line here and one in ckdistill.c. */
#ifndef CK_DISTILL_TOOLS_H
#define CK_DISTILL_TOOLS_H

#include "merge/tool.h"

extern const ck_tool ck_tool_cache, ck_tool_info, ck_tool_finetune, ck_tool_report;
extern const ck_tool ck_tool_sample, ck_tool_run, ck_tool_resume, ck_tool_eval, ck_tool_methods;

/* --device, of every command that computes. */
#define CK_DEVICES "cpu|cpu-bf16|cuda|cuda-tf32|cuda-bf16|auto|reference"
#define CK_OPTION_DEVICE(variable, what)                                                           \
    {                                                                                              \
        .name = "device", .argument = "D", .type = CK_OPT_CHOICE, .value = &(variable),            \
        .choices = CK_DEVICES, .help = what ": " CK_DEVICES                                        \
    }

#endif
