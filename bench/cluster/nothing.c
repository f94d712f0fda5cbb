/* A program that begins and ends. */
int main(void) { return 0; }
