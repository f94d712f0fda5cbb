/* Sleeps and wakes again and again until a file is there, and then says how many microseconds it once slept too long: `waking STOP`. */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { SLEEP_US = 10000, WAKES_PER_LOOK = 50 };

static int64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int main(int count, char **arguments) {
    if (count < 2) return 2;
    int64_t most = 0, before = now_us();
    for (unsigned wakes = 1;; wakes++) {
        usleep(SLEEP_US);
        int64_t now = now_us();
        if (now - before - SLEEP_US > most) most = now - before - SLEEP_US;
        /* To look for the file takes its own time. */
        if (wakes % WAKES_PER_LOOK == 0) {
            if (access(arguments[1], F_OK) == 0) break;
            now = now_us();
        }
        before = now;
    }
    printf("%lld\n", (long long)most);
    return 0;
}
