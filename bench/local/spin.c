/* Computes without end. */
void _start(void) {
    volatile unsigned number = 0;
    for (;;) number++;
}
