/* The tasks: one file each, one line here and one in task.c. */
#ifndef CK_TASKS_H
#define CK_TASKS_H

#include "distill/run/task.h"

extern const ck_task_kind ck_task_checkerboard, ck_task_images;

#endif
