/* The judge of steps, see guard.h. */
#include "distill/run/guard.h"

#include <math.h>

ck_guard_rules ck_guard_rules_default(void) {
    return (ck_guard_rules){
        .skips = 10, .factor = 3, .high = 20, .warmup = 200, .window = 100, .rollbacks = 3};
}

static ck_verdict roll_back(ck_guard *g) {
    g->skipped = g->high = 0;
    if (g->rollbacks >= g->rules.rollbacks) return CK_GUARD_GIVE_UP;
    g->rollbacks++;
    return CK_GUARD_ROLLBACK;
}

ck_verdict ck_guard_judge(ck_guard *g, double loss, double grad_norm) {
    if (!isfinite(loss) || !isfinite(grad_norm)) {
        g->skipped++;
        return g->skipped > g->rules.skips ? roll_back(g) : CK_GUARD_SKIP;
    }
    g->skipped = 0;
    double size = fabs(loss);
    if (g->seen >= g->rules.warmup && g->mean > 0 && size > g->rules.factor * g->mean) {
        /* It stays out of the mean: with it, a lasting spike would soon look normal. */
        g->high++;
        return g->high >= g->rules.high ? roll_back(g) : CK_GUARD_OK;
    }
    g->high = 0;
    g->seen++;
    g->mean += (size - g->mean) / fmin(g->seen, g->rules.window);
    return CK_GUARD_OK;
}

void ck_guard_forget(ck_guard *g) {
    g->mean = g->seen = g->skipped = g->high = 0;
}
