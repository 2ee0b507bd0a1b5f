/* Judges the steps of a run: which ones must not touch the weights, and when training has gone
 * astray. Pure: it decides, the trainer acts.
 *
 *   ck_guard guard = {.rules = ck_guard_rules_default()};
 *   switch (ck_guard_judge(&guard, loss, grad_norm)) {          before the optimiser's step
 *   case CK_GUARD_OK:       update the weights
 *   case CK_GUARD_SKIP:     do not, go on with the next batch
 *   case CK_GUARD_ROLLBACK: load the last checkpoint, but not into guard.rollbacks; go on with
 *                           another seed and a lower rate, both made of guard.rollbacks
 *   case CK_GUARD_GIVE_UP:  stop; the last checkpoint is good
 *   }
 *
 * The counters are doubles so that they go into a checkpoint as they are (distill/run/state.h): a
 * resumed run judges as one that was never interrupted.
 */
#ifndef CK_GUARD_H
#define CK_GUARD_H

typedef enum ck_verdict {
    CK_GUARD_OK,
    CK_GUARD_SKIP,
    CK_GUARD_ROLLBACK,
    CK_GUARD_GIVE_UP,
} ck_verdict;

typedef struct ck_guard_rules {
    double skips;     /* so many steps in a row may be skipped, the next one is a rollback */
    double factor;    /* a loss larger than factor * mean is high */
    double high;      /* so many high losses in a row are a rollback */
    double warmup;    /* losses that must have gone into the mean before any is called high */
    double window;    /* losses that the running mean remembers */
    double rollbacks; /* so many, then it gives up */
} ck_guard_rules;

typedef struct ck_guard {
    ck_guard_rules rules;
    /* What a checkpoint keeps: */
    double mean;      /* of the sizes of losses that were neither high nor skipped; each new one
                       * weighs 1 / window */
    double seen;      /* how many these were */
    double skipped;   /* steps in a row, the last one included */
    double high;      /* losses in a row, the last one included */
    double rollbacks; /* in the whole run */
} ck_guard;

/* 10 skips; 20 losses above 3 times the mean of about 100, after 200; 3 rollbacks. */
ck_guard_rules ck_guard_rules_default(void);

/* Takes in a step's loss and the norm of its gradient before clipping. Not finite (either of them)
 * means SKIP. A high loss is OK until there are rules.high of them: single ones are the noise of
 * random timesteps. A loss counts by its size, without its sign: the losses of some distillation
 * methods go around zero. ROLLBACK counts itself and forgets what is in a row. */
ck_verdict ck_guard_judge(ck_guard *g, double loss, double grad_norm);

/* Forgets the losses, not the rollbacks: where a method changes its target, as progressive
 * distillation does when it halves the steps, the losses before say nothing about those after. */
void ck_guard_forget(ck_guard *g);

#endif
