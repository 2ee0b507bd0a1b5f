/* Ctrl-C and kill as requests: the first one asks the run to finish its step and save, the second
 * one ends the process at once.
 *
 *   ck_interrupt_begin("\nfinishing this step, then saving; once more stops at once\n");
 *   while (... && !ck_interrupt_asked()) step();
 *   save();
 *   ck_interrupt_end();
 *
 * For SIGINT, SIGTERM and SIGHUP. A signal that the process ignored before stays ignored: nohup
 * means that a run outlives its terminal.
 */
#ifndef CK_INTERRUPT_H
#define CK_INTERRUPT_H

/* From here on signals are requests. notice is written to standard error on the first one (NULL:
 * nothing): a step may take a minute. It must stay valid until the end. Not nested. */
void ck_interrupt_begin(const char *notice);

/* The number of the signal that asked, or 0. */
int ck_interrupt_asked(void);

/* Every signal does again what it did before; what was asked is forgotten. */
void ck_interrupt_end(void);

#endif
